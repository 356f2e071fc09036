"""Checks whether a codec can decode the codes in a file or dataset."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING

from codecvq.errors import CodecvqError

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec

MAX_RUNS = 6  # runs of equal codebook sizes in an error message
SHOWN = 12  # digits of a hash in an error message


@dataclass(frozen=True)
class CodesOrigin:
    """Metadata that a file or dataset records of the codec that encoded it."""

    what: str  # name of the file or dataset in messages: "the file", "tokens/"
    sample_rate: int  # Hz
    hop_length: int  # samples per frame
    codebook_sizes: tuple[int, ...]  # of the stored codebooks
    strides: tuple[int, ...]  # of the stored codebooks
    codebooks: str  # codebooks_sha256 of the codec, or a prefix of it
    weights: str  # weights_sha256 of the codec, or a prefix of it
    codec: str = ""  # name of the codec, if recorded


def check_compatible(
    origin: CodesOrigin, codec: AudioCodec, error: type[CodecvqError], force: bool | None = None
) -> None:
    """Raise `error` if the codec cannot decode these codes; warn if it decodes them to other samples.

    Other codebook sizes, strides or rates always raise. Another codebooks hash raises unless `force` is True;
    the message mentions `force` unless it is None.
    """
    count = len(origin.codebook_sizes)
    sizes, strides = tuple(codec.codebook_sizes)[:count], tuple(codec.strides)[:count]
    advice = f"Decode with {repr(origin.codec) if origin.codec else 'the codec that wrote it'}"
    rates = _rates(codec.sample_rate, codec.hop_length)
    for same, recorded, actual in (
        (
            origin.codebook_sizes == sizes,
            f"codebooks of {short_runs(origin.codebook_sizes)}",
            f"codebooks of {short_runs(sizes)}",
        ),
        (
            origin.strides == strides,
            f"strides of {short_runs(origin.strides)}",
            f"strides of {short_runs(strides)}",
        ),
        (
            (origin.sample_rate, origin.hop_length) == (codec.sample_rate, codec.hop_length),
            _rates(origin.sample_rate, origin.hop_length),
            rates,
        ),
    ):
        if not same:
            raise error(f"{origin.what} has {recorded}, but codec {codec.name!r} has {actual}. {advice}.")
    if not force and not codec.matches_codebooks(origin.codebooks):
        or_force = "" if force is None else ", or pass force=True"
        raise error(
            f"{origin.what} has codes of codebooks {origin.codebooks[:SHOWN]}, but codec {codec.name!r} has "
            f"codebooks {codec.codebooks_sha256[:SHOWN]}. {advice}{or_force}."
        )
    if not codec.matches_weights(origin.weights):
        shown = len(origin.weights[:SHOWN])
        warnings.warn(
            f"{origin.what} was written with weights {origin.weights[:SHOWN]}, but codec {codec.name!r} has "
            f"weights {codec.weights_sha256[:shown]} with the same codebooks: it decodes the codes, but not "
            "to the same samples.",
            stacklevel=4,
        )


def _rates(sample_rate: int, hop_length: int) -> str:
    return f"{sample_rate} Hz and {hop_length} samples a frame"


def short_runs(numbers: Sequence[int]) -> str:
    """Return numbers as runs of equal values, for example "8 x 1024"."""
    runs = groupby(numbers)
    shown = [f"{len(list(group))} x {number}" for number, group in islice(runs, MAX_RUNS)]
    return " + ".join([*shown, "…"] if next(runs, None) else shown)

"""The identity of a codec in a `.cvq` file: stored by the writer, compared by the reader."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codecvq.api.code_tables import CodeTables
from codecvq.bitstream.header import (
    CODEBOOKS_ID_BYTES,
    MAX_CHANNELS,
    MAX_RATE,
    MAX_STRIDE,
    WEIGHTS_ID_BYTES,
    Header,
)
from codecvq.codec.compatibility import CodesOrigin, check_compatible, short_runs
from codecvq.errors import BitstreamError, OptionError
from codecvq.limits import MAX_CODEBOOK_SIZE

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec


@dataclass(frozen=True)
class Identity:
    """The codec properties that a file stores."""

    name: str
    sizes: tuple[int, ...]  # K of each codebook
    strides: tuple[int, ...]  # frames per code, of each codebook
    sample_rate: int  # Hz
    hop_length: int  # samples per frame
    channels: int  # audio channels of one code stream
    codebooks_id: str
    weights_id: str

    @classmethod
    def from_codec(cls, codec: AudioCodec) -> Identity:
        """Return the identity of a codec; raises BitstreamError for values that a file cannot store."""
        try:
            name, sizes = str(codec.name), tuple(codec.codebook_sizes)
            strides = tuple(codec.strides)
            rate, hop, channels = codec.sample_rate, codec.hop_length, codec.channels
            codebooks_sha256, weights_sha256 = codec.codebooks_sha256, codec.weights_sha256
        except AttributeError as error:
            raise BitstreamError(
                f"codec is a {type(codec).__name__} ({error}). Pass the result of codecvq.load."
            ) from error
        suffix = f"of codec {name!r}"
        if len(strides) != len(sizes):
            raise BitstreamError(
                f"{len(strides)} strides {suffix} are given, but it has {len(sizes)} codebooks."
            )
        return cls(
            name,
            tuple(whole_number(size, f"a codebook size {suffix}", 1, MAX_CODEBOOK_SIZE) for size in sizes),
            tuple(whole_number(stride, f"a stride {suffix}", 1, MAX_STRIDE) for stride in strides),
            whole_number(rate, f"the sample rate {suffix}", 1, MAX_RATE),
            whole_number(hop, f"the hop {suffix}", 1, MAX_RATE),
            whole_number(channels, f"the number of channels {suffix}", 1, MAX_CHANNELS),
            _id_prefix(codebooks_sha256, CODEBOOKS_ID_BYTES, f"codebooks_sha256 {suffix}"),
            _id_prefix(weights_sha256, WEIGHTS_ID_BYTES, f"weights_sha256 {suffix}"),
        )


def check_codec(header: Header, codec: AudioCodec, force: bool) -> None:
    """Raise BitstreamError if the file was not written with the codebooks of `codec`.

    With `force`, only other sizes, strides or rates raise. Issues a UserWarning for the same codebooks with
    other weights.
    """
    Identity.from_codec(codec)
    origin = CodesOrigin(
        "the file", header.sample_rate, header.hop_length, header.sizes, header.strides,
        header.codebooks_id, header.weights_id,
    )  # fmt: skip
    check_compatible(origin, codec, BitstreamError, force)


def whole_number(value: Any, name: str, minimum: int, maximum: int) -> int:  # Any: a caller's value
    """Return the value as an int; raises BitstreamError unless it is an integer in the range."""
    try:
        number = operator.index(value)
    except (TypeError, RuntimeError):  # RuntimeError: a tensor with several elements
        raise BitstreamError(f"{name} is a {type(value).__name__}, but an integer is needed.") from None
    if not minimum <= number <= maximum:
        given = number if abs(number) < 2**64 else f"a number of {number.bit_length()} bits"
        raise BitstreamError(f"{name} is {given}, but {minimum} to {maximum} is needed.")
    return number


def checked_code_tables(codec: AudioCodec, sizes: Sequence[int]) -> CodeTables | None:
    """Return the learned tables of a codec, or None if it has no tables.

    Raises BitstreamError if the tables do not match the codebooks.
    """
    try:
        tables = codec.code_tables()
    except OptionError as error:  # the weights of a codec may hold invalid frequencies
        raise BitstreamError(f"code_tables of codec {str(codec.name)!r}: {error}.") from error
    if tables is None:
        return None
    if not isinstance(tables, CodeTables) or tables.codebook_sizes != tuple(sizes):
        given = tables.codebook_sizes if isinstance(tables, CodeTables) else f"a {type(tables).__name__}"
        raise BitstreamError(
            f"code_tables of codec {str(codec.name)!r} returns {given}, but CodeTables for its codebooks "
            f"{short_runs(sizes)} are needed."
        )
    return tables


def _id_prefix(sha256: Any, length: int, name: str) -> str:  # Any: from a third-party codec
    if not isinstance(sha256, str) or not re.fullmatch(rf"[0-9a-f]{{{2 * length},}}", sha256):
        raise BitstreamError(
            f"{name} is {sha256!r:.80}, but {2 * length} or more hexadecimal digits are needed."
        )
    return sha256[: 2 * length]

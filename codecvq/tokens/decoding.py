"""From a token dataset back to audio files, each of exactly the length it had."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from codecvq.audio import write_audio
from codecvq.errors import TokensError
from codecvq.files import path_inside
from codecvq.identity import same_codebooks, same_weights
from codecvq.tokens.card import Card
from codecvq.tokens.dataset import TokenRow, read_tokens

if TYPE_CHECKING:
    from codecvq.codec import Codec


@dataclass(frozen=True)
class Decoded:
    """What `detokenize` wrote."""

    folder: Path
    files: tuple[Path, ...]
    audio_s: float


def detokenize(
    codec: Codec,
    folder: str | Path,
    out_folder: str | Path,
    ids: Collection[str] | None = None,
    *,
    suffix: str = ".flac",
    progress: Callable[[int, int], None] | None = None,
) -> Decoded:
    """The audio files written: one a row, or for the `ids` only, under the clip's id with `suffix` (".flac"
    or ".wav").

    Raises TokensError where the codes are of other codebooks than the codec's; other weights around the same
    codebooks give a warning. `progress` is told files done and in all.
    """
    dataset = read_tokens(folder)
    check_codec(dataset.card, codec, Path(folder))
    rows = iter(dataset) if ids is None else (dataset[id] for id in ids)
    total = len(dataset) if ids is None else len(ids)
    out, audio_s = Path(out_folder), 0.0
    files: dict[Path, str] = {}
    for done, row in enumerate(rows, start=1):
        path = path_inside(out, row.id, suffix)
        if path in files:
            raise TokensError(
                f"clips {files[path]!r} and {row.id!r} would both be written to {path}. Decode them one by "
                "one."
            )
        files[path] = row.id
        write_audio(path, _decode(codec, row), codec.sample_rate)
        audio_s += row.num_samples / codec.sample_rate
        if progress is not None:
            progress(done, total)
    return Decoded(out, tuple(files), audio_s)


def check_codec(card: Card, codec: Codec, folder: Path) -> None:
    """Raises TokensError where the codec cannot decode the dataset's codes, and warns where it does it with
    other weights.
    """
    sizes = tuple(codec.codebook_sizes)
    fits = (card.sample_rate, card.hop_length) == (codec.sample_rate, codec.hop_length)
    fits = fits and card.codebook_sizes == sizes[: len(card.codebook_sizes)]
    if not same_codebooks(codec, card.codebooks_sha256) or not fits:
        raise TokensError(
            f"{folder} holds codes of codec {card.codec!r}, codebooks {card.codebooks_sha256[:12]}, but "
            f"codec {codec.name!r} "
            f"has codebooks {codec.codebooks_sha256[:12]}. Decode them with {card.codec!r}."
        )
    if not same_weights(codec, card.weights_sha256):
        warnings.warn(
            f"{folder} was tokenized with weights {card.weights_sha256[:12]}, codec {codec.name!r} has "
            f"{codec.weights_sha256[:12]} "
            "around the same codebooks: it decodes, but not to the same samples.",
            stacklevel=3,
        )


def _decode(codec: Codec, row: TokenRow) -> npt.NDArray[np.float32]:
    """The samples `[C, S]` of a row."""
    import torch

    codes = torch.from_numpy(row.codes.astype(np.int64))[None].to(codec.device)  # [1, N, T]
    with torch.inference_mode():
        wave = codec.decode(codes, num_samples=row.num_samples)  # [1, C, S]
    return wave[0].float().cpu().numpy()

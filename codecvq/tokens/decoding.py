"""Decoding of a token dataset to audio files with the exact length of the original clips."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from codecvq.audio import WRITTEN_FORMATS, audio_file
from codecvq.codec.compatibility import CodesOrigin, check_compatible
from codecvq.codec.recordings import decode_blocks
from codecvq.errors import CodecvqError, TokensError
from codecvq.files import path_inside
from codecvq.plugins.third_party import contained
from codecvq.tokens.card import Card
from codecvq.tokens.dataset import TokenDataset, read_tokens
from codecvq.tokens.rows import TokenFailure, TokenRow

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec

FRAMES_AT_ONCE = 500
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # later files could not be written either


@dataclass(frozen=True)
class Decoded:
    """The result of `detokenize`."""

    folder: Path
    files: tuple[Path, ...]
    audio_s: float
    failures: tuple[TokenFailure, ...] = ()  # rows that are damaged or could not be decoded or written
    not_tried: int = 0  # rows that remained when the disk was full or read-only
    stopped: str = ""  # the error of that disk


def detokenize(
    codec: AudioCodec,
    folder: str | Path,
    out_folder: str | Path,
    ids: Collection[str] | None = None,
    *,
    suffix: str = ".flac",
    progress: Callable[[int, int], None] | None = None,
) -> Decoded:
    """Decode all rows of a token dataset, or the rows of `ids`, to one audio file per row.

    A file is named after the id of the clip, with `suffix` (".flac" or ".wav"). A row that is damaged or
    cannot be decoded or written becomes one of the `failures`, and the job continues. A full or read-only
    disk ends the job. `progress` is called with the number of processed rows and the total.

    Raises TokensError for an unknown id, and if the codes do not belong to the codebooks of `codec`.
    Issues a UserWarning for the same codebooks with other weights.
    """
    if suffix.lower() not in WRITTEN_FORMATS:
        raise TokensError(f"suffix is {suffix!r}, but {' or '.join(WRITTEN_FORMATS)} is needed.")
    dataset = read_tokens(folder)
    check_codec(dataset.card, codec, Path(folder))
    out, audio_s = Path(out_folder), 0.0
    rows = _every_row(dataset) if ids is None else _chosen_rows(dataset, list(dict.fromkeys(ids)))
    total = len(dataset) if ids is None else len(set(ids))
    out.mkdir(parents=True, exist_ok=True)
    files: dict[Path, str] = {}
    failures: list[TokenFailure] = []
    for done, row in rows:
        try:
            failure = row if isinstance(row, TokenFailure) else _write(codec, row, out, suffix, files)
        except OSError as error:  # disk full or read-only
            failure = TokenFailure(row.id, "", _one_line(error))
            remaining = total - done
            return Decoded(out, tuple(files), audio_s, (*failures, failure), remaining, failure.error)
        if failure:
            failures.append(failure)
        elif isinstance(row, TokenRow):
            audio_s += row.num_samples / codec.sample_rate
        if progress is not None:
            progress(done, total)
    return Decoded(out, tuple(files), audio_s, tuple(failures))


def _every_row(dataset: TokenDataset) -> Iterator[tuple[int, TokenRow | TokenFailure]]:
    """Yield each row, or the failure of a row or of its row group, with the number of rows processed."""
    done = 0
    for shard in dataset.shards:
        for index, size in enumerate(shard.group_sizes):
            try:
                group = shard.group(index)
                rows = [None if i in group.problems else group[i] for i in range(size)]
            except TokensError as error:
                done += size
                yield done, TokenFailure(f"{shard.path.name}, row group {index}", str(shard.path), str(error))
                continue
            for i, row in enumerate(rows):
                done += 1
                yield done, row or TokenFailure(group.ids[i], str(shard.path), f"{group.problems[i]}")


def _chosen_rows(dataset: TokenDataset, ids: Sequence[str]) -> Iterator[tuple[int, TokenRow | TokenFailure]]:
    """Return the rows of these ids, or their failures, each with the number of rows processed.

    Raises TokensError for an unknown id before the first row.
    """
    for id in ids:
        dataset.require(id)
    return ((done, _row_or_failure(dataset, id)) for done, id in enumerate(ids, start=1))


def _row_or_failure(dataset: TokenDataset, id: str) -> TokenRow | TokenFailure:
    try:
        return dataset[id]
    except TokensError as error:
        return TokenFailure(id, str(dataset.folder), str(error))


def _write(
    codec: AudioCodec, row: TokenRow, out: Path, suffix: str, files: dict[Path, str]
) -> TokenFailure | None:
    """Write the audio of a row and add its path to `files`; returns a failure if that is not possible.

    Raises OSError if the disk is full or read-only.
    """
    path = path_inside(out, row.id, suffix)
    try:
        if path in files:
            raise TokensError(f"{path} was already written for clip {files[path]!r}. Decode this clip alone.")
        with audio_file(path, codec.sample_rate, codec.channels, num_samples=row.num_samples) as file:
            for samples in _decode(codec, row):
                file.write(samples)
    except Exception as error:  # a third-party codec, out of memory, or an invalid file name
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        return TokenFailure(row.id, str(row.source["path"]), _one_line(error))
    files[path] = row.id
    return None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, CodecvqError) and text else f"{type(error).__name__}: {text[:500]}"


def check_codec(card: Card, codec: AudioCodec, folder: Path) -> None:
    """Raise TokensError if the codec cannot decode the codes of the dataset.

    Issues a UserWarning if its codebooks are the same but its weights are not.
    """
    origin = CodesOrigin(
        str(folder), card.sample_rate, card.hop_length, card.codebook_sizes, card.frames_per_code,
        card.codebooks_sha256, card.weights_sha256, card.codec,
    )  # fmt: skip
    check_compatible(origin, codec, TokensError)


def _decode(codec: AudioCodec, row: TokenRow) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the samples `[C, n]` of a row in blocks."""
    starts = range(0, row.num_frames, FRAMES_AT_ONCE)
    codes = (row.codes[None, :, start : start + FRAMES_AT_ONCE] for start in starts)
    left = row.num_samples
    with contained():
        for block in decode_blocks(codec, codes):
            yield block[0, :, :left]
            left -= min(left, block.shape[2])

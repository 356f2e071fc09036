"""From a token dataset back to audio files, each of exactly the length it had."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from codecvq.audio import WRITTEN_FORMATS, write_audio
from codecvq.codec.compatibility import Origin, check_compatible
from codecvq.errors import CodecvqError, TokensError
from codecvq.files import path_inside
from codecvq.limits import LONGEST_S
from codecvq.plugins.third_party import contained
from codecvq.tokens.card import Card
from codecvq.tokens.dataset import TokenDataset, read_tokens
from codecvq.tokens.rows import TokenFailure, TokenRow

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no later file could be written either


@dataclass(frozen=True)
class Decoded:
    """What `detokenize` wrote."""

    folder: Path
    files: tuple[Path, ...]
    audio_s: float
    failures: tuple[TokenFailure, ...] = ()  # rows that are damaged, or could not be decoded or written
    not_tried: int = 0  # rows left when the disk was full or read-only
    stopped: str = ""  # the error that said so


def detokenize(
    codec: AudioCodec,
    folder: str | Path,
    out_folder: str | Path,
    ids: Collection[str] | None = None,
    *,
    suffix: str = ".flac",
    progress: Callable[[int, int], None] | None = None,
) -> Decoded:
    """The audio files written: one a row, or for the `ids` only, under the clip's id with `suffix` (".flac"
    or ".wav").

    A row that is damaged, or that cannot be decoded or written, is one of the `failures`, and the rest goes
    on; a full or read-only disk ends it. Raises TokensError for an unknown id and where the codes are of
    other codebooks than the codec's; other weights around the same codebooks give a warning. `progress` gets
    the files done and in all.
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
        except OSError as error:  # of the disk
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
    """Each row, or what is wrong with it or with its row group, and how many rows that makes."""
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
    """The rows of these ids, or what is wrong with them, and how many that makes. Raises TokensError for an
    unknown id before the first row.
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
    """Writes a row's audio and notes its path in `files`; returns why not where it cannot be done. Raises
    OSError where no other row could be written either.
    """
    path = path_inside(out, row.id, suffix)
    try:
        if path in files:
            raise TokensError(f"{path} has been written for clip {files[path]!r}. Decode this one alone.")
        write_audio(path, _decode(codec, row), codec.sample_rate)
    except Exception as error:  # a stranger's codec, or no memory for this row, or a name that is refused
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        return TokenFailure(row.id, str(row.source["path"]), _one_line(error))
    files[path] = row.id
    return None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, CodecvqError) and text else f"{type(error).__name__}: {text[:500]}"


def check_codec(card: Card, codec: AudioCodec, folder: Path) -> None:
    """Raises TokensError where the codec cannot decode the dataset's codes, and warns where it does it with
    other weights.
    """
    origin = Origin(
        str(folder), card.sample_rate, card.hop_length, card.codebook_sizes, card.frames_per_code,
        card.codebooks_sha256, card.weights_sha256, card.codec,
    )  # fmt: skip
    check_compatible(origin, codec, TokensError)


def _decode(codec: AudioCodec, row: TokenRow) -> npt.NDArray[np.float32]:
    """The samples `[C, S]` of a row. Raises TokensError where it is too long to be decoded at once."""
    import torch

    if row.num_samples > LONGEST_S * codec.sample_rate:
        raise TokensError(
            f"it stands for {row.num_samples / codec.sample_rate / 3600:.1f} hours of audio, more than the "
            f"{LONGEST_S / 3600:g} that are decoded at once."
        )
    codes = torch.from_numpy(row.codes.astype(np.int64))[None].to(codec.device)  # [1, N, T]
    with contained(), torch.inference_mode():
        wave = codec.decode(codes, num_samples=row.num_samples)  # [1, C, S]
    return wave[0].float().cpu().numpy()

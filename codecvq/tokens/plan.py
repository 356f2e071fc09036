"""The plan of a tokenize job: which clips go into which shard, and with which columns.

The plan is made before the first clip is read. It depends only on the clips and the shard limits, so every
process and every later run makes the same plan.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codecvq.data import Clip, Clips, Corpus
from codecvq.data.text import utf8_safe
from codecvq.errors import TokensError
from codecvq.tokens.card import MAX_PIECE_S, MIN_PIECE_S, Card, Job
from codecvq.tokens.columns import column_types, column_values
from codecvq.tokens.rows import TokenFailure, TokenRow
from codecvq.tokens.shard import ROW_GROUP, Shard, shard_name, write_parquet

if TYPE_CHECKING:
    import pyarrow as pa

PIECE_ID = re.compile(r"(?P<clip>.*)#[0-9]{4,}", re.DOTALL)  # of a piece of a clip
SPLIT_NAME = re.compile(r"\w[\w.-]{0,99}")  # used in file names; same pattern as in `Job.shards`


@dataclass(frozen=True)
class PlannedShard:
    """One shard file and its clips."""

    name: str
    clips: Sequence[Clip]
    failures: tuple[TokenFailure, ...] = ()  # failures of the corpus; only in the first shard


@dataclass(frozen=True)
class Plan:
    """All shards of a job, and the extra columns of the clips."""

    job: Job
    shards: tuple[PlannedShard, ...]
    columns: Mapping[str, pa.DataType]


def plan_job(
    clips: Iterable[Clip], shard_clips: int, shard_seconds: float, max_seconds: float | None = None
) -> Plan:
    """Return the plan for these clips, in their order, split by split.

    A shard ends after `shard_clips` clips or `shard_seconds` of audio, whichever comes first. Clips of
    unknown duration count as 0 seconds. If `clips` is a corpus, it determines the splits; otherwise
    `clip.split` does, with the default "train". Clips that the corpus lists as unusable are failures of the
    first shard. `max_seconds` is the maximum duration of a row.

    Raises TokensError for invalid limits, no clips, repeated ids, invalid split names, and columns without a
    common type.
    """
    if shard_clips < 1 or not shard_seconds > 0:
        raise TokensError(
            f"shard_clips={shard_clips} and shard_seconds={shard_seconds:g} leave no space for clips. Give "
            "numbers above 0."
        )
    if max_seconds is not None and not MIN_PIECE_S <= max_seconds <= MAX_PIECE_S:
        raise TokensError(
            f"max_seconds is {max_seconds:g}, but {MIN_PIECE_S:g} to {MAX_PIECE_S:g} are possible. Omit it "
            "to store each clip as one row."
        )
    splits = _splits(clips)
    if max_seconds is not None:
        _check_no_piece_ids(splits)
    if not splits:
        raise TokensError("there are no clips to tokenize. Check the corpus, its split and its speakers.")
    columns = column_types(_ChainedClips(tuple(splits.values())))
    shards: list[PlannedShard] = []
    counts = {}
    failures = _corpus_failures(clips)
    for split, group in splits.items():
        parts = _parts(group, shard_clips, shard_seconds)
        counts[split] = len(parts)
        shards += [
            PlannedShard(shard_name(split, i, len(parts)), part, () if shards or i else failures)
            for i, part in enumerate(parts)
        ]
    job = Job(
        clips=sum(map(len, splits.values())) + len(failures),
        clips_sha256=_digest(splits, columns, failures), shards=counts,
        shard_clips=shard_clips, shard_seconds=float(shard_seconds),
        max_seconds=None if max_seconds is None else float(max_seconds),
    )  # fmt: skip
    return Plan(job, tuple(shards), columns)


def check_columns(card: Card, plan: Plan) -> None:
    """Raise TokensError if a shard with the columns of the plan cannot be written and read back."""
    import pyarrow as pa

    all_clips = (clip for shard in plan.shards for clip in shard.clips)
    clips = list(itertools.islice(all_clips, ROW_GROUP))
    codes = np.zeros((len(card.codebook_sizes), 1), dtype=np.uint16)
    source = {"path": "", "start_s": 0.0}
    rows = [TokenRow(clip.id, codes, card.hop_length, source, column_values(clip)) for clip in clips]
    sink = io.BytesIO()
    try:
        write_parquet(sink, card, plan.columns, rows, (), "a shard")
        Shard.read(sink, Path("a shard"), "train").group(0)
    except (TokensError, pa.ArrowException, ValueError) as error:
        raise TokensError(
            f"the columns {', '.join(map(repr, plan.columns))[:200]} of the manifest cannot be stored in "
            f"Parquet ({error}). Rename or remove them."
        ) from error


def _splits(source: Iterable[Clip]) -> dict[str, Clips]:
    """Return the clips of each split, in order."""
    split_of = getattr(source, "split_of", None) or (lambda clip: clip.split or "train")
    clips = source.lazy_clips if isinstance(source, Corpus) else Clips.from_clips(source)
    if duplicates := clips.duplicate_ids():
        id_ = clips[duplicates[0]].id
        raise TokensError(f"two clips have the id {id_!r}. Ids identify rows, so each must be unique.")
    splits: dict[str, array[int]] = {}
    for index, clip in enumerate(clips):
        split = str(split_of(clip))
        if not SPLIT_NAME.fullmatch(split):
            raise TokensError(
                f"clip {clip.id!r} has the split {split[:100]!r}, but only letters, digits, '_', '-' and '.' "
                "are allowed: the split is part of file names."
            )
        splits.setdefault(split, array("q")).append(index)
    return {split: clips.select(np.frombuffer(rows, np.int64)) for split, rows in splits.items()}


def _check_no_piece_ids(splits: Mapping[str, Clips]) -> None:
    """Raise TokensError if the id of a clip could be the id of a piece."""
    for id in (clip.id for clips in splits.values() for clip in clips):
        if PIECE_ID.fullmatch(id):
            raise TokensError(
                f"clip {id!r} has an id like a piece of a clip (ID#0001), so it cannot be used with "
                "max_seconds. Rename it."
            )


@dataclass(frozen=True)
class _ChainedClips:
    """The clips of all splits, as an iterable that can be iterated repeatedly."""

    groups: tuple[Clips, ...]

    def __iter__(self) -> Iterator[Clip]:
        return itertools.chain.from_iterable(self.groups)


def _corpus_failures(clips: Iterable[Clip]) -> tuple[TokenFailure, ...]:
    return tuple(
        TokenFailure(failure.id, utf8_safe(str(failure.path)), " ".join(failure.error.split()))
        for failure in getattr(clips, "failures", ())
    )


def _parts(clips: Clips, shard_clips: int, shard_seconds: float) -> list[Clips]:
    starts: list[int] = []
    seconds = 0.0
    for index, duration_s in enumerate(np.nan_to_num(clips.durations_s, nan=0.0).tolist()):
        if not starts or index - starts[-1] >= shard_clips or seconds >= shard_seconds:
            starts.append(index)
            seconds = 0.0
        seconds += duration_s
    return [clips[start:end] for start, end in itertools.pairwise([*starts, len(clips)])]


def _digest(
    splits: Mapping[str, Sequence[Clip]], columns: Mapping[str, pa.DataType], failures: Iterable[TokenFailure]
) -> str:
    """Return a hash of everything that determines the rows except the samples.

    Excludes folders, so that audio files can be moved.
    """
    digest = hashlib.sha256(json.dumps({name: str(kind) for name, kind in columns.items()}).encode())
    for split, clips in splits.items():
        for clip in clips:
            row = [split, clip.id, clip.path.name, clip.start_s, clip.duration_s, column_values(clip)]
            row += [] if clip.channel is None else [clip.channel]
            digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    for failure in failures:
        digest.update(json.dumps([failure.id, Path(failure.source).name]).encode() + b"\n")
    return digest.hexdigest()

"""What a tokenize job will write, fixed before its first clip is read: which clips go in which shard, with
which columns.

The plan depends on nothing but the clips and the shard limits, so that every process and every later run
comes to the same one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codecvq.errors import TokensError
from codecvq.tokens.card import Job
from codecvq.tokens.dataset import OWN_COLUMNS, shard_name

if TYPE_CHECKING:
    import pyarrow as pa

    from codecvq.training.corpus import Clip

CLIP_COLUMNS = ("text", "speaker", "language", "licence")  # a clip's own; a column each when any clip has it


@dataclass(frozen=True)
class PlannedShard:
    """One file to be written, and the clips that belong in it."""

    name: str
    clips: tuple[Clip, ...]


@dataclass(frozen=True)
class Plan:
    """All files of a job, and the columns that the clips bring."""

    job: Job
    shards: tuple[PlannedShard, ...]
    columns: Mapping[str, pa.DataType]


def plan_job(clips: Iterable[Clip], shard_clips: int, shard_seconds: float) -> Plan:
    """The plan for these clips, in their order, split by split.

    A shard is closed at `shard_clips` clips or `shard_seconds` of audio, whichever comes first; clips of
    unknown length count as no audio. Splits are the corpus's, where `clips` is one; else what each clip says,
    "train" by default.
    """
    if shard_clips < 1 or shard_seconds <= 0:
        raise TokensError(
            f"shard_clips={shard_clips} and shard_seconds={shard_seconds:g} leave no room. Give numbers "
            "above 0."
        )
    split_of = getattr(clips, "split_of", None) or (lambda clip: clip.split or "train")
    splits: dict[str, list[Clip]] = {}
    seen: set[str] = set()
    for clip in clips:
        if clip.id in seen:
            raise TokensError(
                f"two clips have the id {clip.id!r}. Ids name the rows, so each must occur once."
            )
        seen.add(clip.id)
        splits.setdefault(str(split_of(clip)), []).append(clip)
    if not seen:
        raise TokensError("there are no clips to tokenize. Check the corpus, its split and its speakers.")
    members = [clip for group in splits.values() for clip in group]
    columns = _columns(members)
    shards, counts = [], {}
    for split, group in splits.items():
        parts = _parts(group, shard_clips, shard_seconds)
        counts[split] = len(parts)
        shards += [
            PlannedShard(shard_name(split, i, len(parts)), tuple(part)) for i, part in enumerate(parts)
        ]
    job = Job(
        clips=len(seen), clips_sha256=_digest(splits, columns), shards=counts,
        shard_clips=shard_clips, shard_seconds=float(shard_seconds),
    )  # fmt: skip
    return Plan(job, tuple(shards), columns)


def column_values(clip: Clip) -> dict[str, Any]:  # Any: a manifest's values
    """What a clip brings to its row: the manifest's columns, and its own text, speaker, language, licence
    where it has them.
    """
    own = {name: getattr(clip, name) for name in CLIP_COLUMNS if getattr(clip, name)}
    return {**clip.columns, **own}


def _parts(clips: Sequence[Clip], shard_clips: int, shard_seconds: float) -> list[list[Clip]]:
    parts: list[list[Clip]] = []
    seconds = 0.0
    for clip in clips:
        if not parts or len(parts[-1]) >= shard_clips or seconds >= shard_seconds:
            parts.append([])
            seconds = 0.0
        parts[-1].append(clip)
        seconds += clip.duration_s or 0.0
    return parts


def _columns(clips: Sequence[Clip]) -> dict[str, pa.DataType]:
    """The columns that the clips bring and the type of each, from all of its values."""
    import pyarrow as pa

    rows = [column_values(clip) for clip in clips]
    types = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        if name in OWN_COLUMNS:
            raise TokensError(
                f"the manifest has a column {name!r}, which a token dataset has already. Rename it, to "
                f"'source_{name}' say."
            )
        try:
            found = pa.array([row.get(name) for row in rows]).type
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise TokensError(
                f"the manifest's column {name!r} mixes types ({error}). Give all of its values one type, "
                "or leave it out."
            ) from error
        types[name] = pa.string() if pa.types.is_null(found) else found
    return types


def _digest(splits: Mapping[str, Sequence[Clip]], columns: Mapping[str, pa.DataType]) -> str:
    """A hash of all that decides what the rows will be, but for the samples. Folders may move, so they are
    left out.
    """
    digest = hashlib.sha256(json.dumps({name: str(kind) for name, kind in columns.items()}).encode())
    for split, clips in splits.items():
        for clip in clips:
            row = [split, clip.id, clip.path.name, clip.start_s, clip.duration_s, column_values(clip)]
            digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()

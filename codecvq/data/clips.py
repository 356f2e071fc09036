"""`Clips`: clips that are made when they are used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from codecvq.data.clip import Clip, ClipFailure
from codecvq.data.columns import Columns, build_columns
from codecvq.data.shared_array import SharedArray
from codecvq.data.splits import NONE, OTHER, SPLITS, SplitBy, split_code, split_of

Rows = npt.NDArray[np.int32] | npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClipListing:
    """What a reader found: clips, of which each is made when it is taken, and what cannot be used."""

    clips: Sequence[Clip]
    failures: tuple[ClipFailure, ...] = ()
    name: str = ""  # of the corpus; "": that of the file or folder


class Clips(Sequence[Clip]):
    """Rows of a source, in an order of their own. A clip is made when it is taken, and not kept.

    `source[row]` makes a clip: a tuple of clips, or a sequence that reads a file. What is needed of all clips
    at once is in `columns`, which also hold what a corpus knows better than the source: splits that a run has
    written down, and lengths that were measured.
    """

    MAX_IN_MEMORY = 20_000  # up to so many clips of a source, a reader keeps them as they are

    def __init__(self, source: Sequence[Clip], columns: Columns, rows: SharedArray | None = None) -> None:
        self._source, self._columns, self._rows = source, columns, rows  # rows None: all of them

    @classmethod
    def from_clips(cls, clips: Iterable[Clip]) -> Clips:
        """The clips of a sequence, which is kept, or of an iterator, which ends up in memory. Each clip is
        looked at once.
        """
        if isinstance(clips, Clips):
            return clips
        source = clips if isinstance(clips, Sequence) else tuple(clips)
        return cls(source, build_columns(source))

    def __len__(self) -> int:
        return len(self._columns) if self._rows is None else len(self._rows.values)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> Clips: ...
    def __getitem__(self, index: int | slice) -> Clip | Clips:
        if isinstance(index, slice):
            return self.select(np.arange(*index.indices(len(self))))
        index = range(len(self))[index]
        row = index if self._rows is None else int(self._rows.values[index])
        return self._updated_clip(row, self._source[row])

    def __iter__(self) -> Iterator[Clip]:
        if self._rows is None:
            return (self._updated_clip(row, clip) for row, clip in enumerate(self._source))
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return self is other or (
            len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Clips({len(self)} of {type(self._source).__name__})"

    # all clips at once

    @property
    def durations_s(self) -> npt.NDArray[np.float64]:
        """Seconds of each clip, NaN where they are not known."""
        return self._column(self._columns.duration_s)

    @property
    def measured(self) -> npt.NDArray[np.bool_]:
        """Whether the duration of each clip has been compared with its file."""
        return self._column(self._columns.measured)

    @property
    def explicit_splits(self) -> npt.NDArray[np.uint8]:
        """The `split_code` of the split that each clip states."""
        return self._column(self._columns.explicit_split)

    @property
    def id_hashes(self) -> npt.NDArray[np.uint64]:
        """The `id_hash` of each clip."""
        return self._column(self._columns.id_hash)

    @property
    def speaker_codes(self) -> npt.NDArray[np.int32]:
        """The speaker of each clip, as an index in `speakers`."""
        return self._column(self._columns.speaker)

    @property
    def speakers(self) -> tuple[str, ...]:
        """The speakers that `speaker_codes` count; "" is no speaker. Some may have no clip here."""
        return self._columns.speakers

    def splits(self, split_by: SplitBy) -> npt.NDArray[np.uint8]:
        """The `split_code` of the split of each clip: its own, or that of the hash of its key or speaker."""
        explicit = self.explicit_splits
        if split_by == "speaker":
            codes = np.array([split_code(split_of(name)) for name in self.speakers] or [NONE], np.uint8)
            hashed = codes[self.speaker_codes]
        else:
            hashed = self._column(self._columns.key_split)
        return np.where(explicit == NONE, hashed, explicit)

    def duplicate_ids(self) -> tuple[int, int] | None:
        """The first two clips that have the same id; None where all ids differ."""
        hashes = self.id_hashes
        ordered = np.sort(hashes)
        if not (equal := ordered[1:] == ordered[:-1]).any():
            return None
        candidates = np.flatnonzero(np.isin(hashes, ordered[1:][equal]))
        first: dict[str, int] = {}
        for index in candidates.tolist():
            other = first.setdefault(self[index].id, index)
            if other != index:
                return other, index
        return None

    # other clips of the same source

    def select(self, indices: npt.NDArray[np.integer[Any]]) -> Clips:
        """The clips at these positions."""
        rows = indices if self._rows is None else self._rows.values[indices]
        small = len(self._columns) < 2**31
        return Clips(self._source, self._columns, SharedArray(rows.astype(np.int32 if small else np.int64)))

    def with_splits(self, codes: npt.NDArray[np.uint8]) -> Clips:
        """The clips with these `split_code`s as their own."""
        explicit = self._replace_values(self._columns.explicit_split, codes)
        return Clips(self._source, replace(self._columns, explicit_split=explicit), self._rows)

    def with_durations(self, durations_s: npt.NDArray[np.float64]) -> Clips:
        """The clips with these durations, which were measured."""
        columns = replace(
            self._columns,
            duration_s=self._replace_values(self._columns.duration_s, durations_s),
            measured=self._replace_values(self._columns.measured, np.ones(len(self), np.bool_)),
        )
        return Clips(self._source, columns, self._rows)

    def _column(self, column: SharedArray) -> npt.NDArray[Any]:
        return column.values if self._rows is None else column.values[self._rows.values]

    def _replace_values(self, column: SharedArray, values: npt.NDArray[Any]) -> SharedArray:
        """The column with other values for these clips."""
        changed = column.values.copy()
        changed[slice(None) if self._rows is None else self._rows.values] = values
        return SharedArray(changed)

    def _updated_clip(self, row: int, clip: Clip) -> Clip:
        """The clip of a row, with what the columns know better."""
        columns = self._columns
        code = int(columns.explicit_split.values[row])
        if code not in (NONE, OTHER) and clip.split != SPLITS[code - 1]:
            clip = replace(clip, split=SPLITS[code - 1])
        if columns.measured.values[row] and not clip.measured:
            clip = replace(
                clip,
                duration_s=float(columns.duration_s.values[row]),
                open_end=clip.open_end or clip.duration_s is None,
                measured=True,
            )
        return clip

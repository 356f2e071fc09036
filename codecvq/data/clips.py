"""`Clips`: a sequence whose clips are created on access."""

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
    """The result of a reader: clips, possibly created on access, and the clips that cannot be used."""

    clips: Sequence[Clip]
    failures: tuple[ClipFailure, ...] = ()
    name: str = ""  # of the corpus; "": the name of the file or folder


class Clips(Sequence[Clip]):
    """A selection of the rows of a source, in any order. Clips are created on access and not cached.

    `source[row]` returns a clip; a source is a tuple of clips or a sequence that reads a file. `columns`
    has the values that are needed for all clips at once. The splits and measured durations in `columns`
    override those of the source.
    """

    MAX_IN_MEMORY = 20_000  # a source with more clips is read from a file on access

    def __init__(self, source: Sequence[Clip], columns: Columns, rows: SharedArray | None = None) -> None:
        self._source, self._columns, self._rows = source, columns, rows  # rows None: all rows

    @classmethod
    def from_clips(cls, clips: Iterable[Clip]) -> Clips:
        """Create `Clips` from a sequence (becomes the source) or an iterator (is read into memory).

        Reads each clip once.
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

    # values of all clips

    @property
    def durations_s(self) -> npt.NDArray[np.float64]:
        """Duration of each clip in seconds; NaN if unknown."""
        return self._column(self._columns.duration_s)

    @property
    def measured(self) -> npt.NDArray[np.bool_]:
        """Whether the duration of each clip was compared with its file."""
        return self._column(self._columns.measured)

    @property
    def explicit_splits(self) -> npt.NDArray[np.uint8]:
        """The `split_code` of the split that each clip specifies."""
        return self._column(self._columns.explicit_split)

    @property
    def id_hashes(self) -> npt.NDArray[np.uint64]:
        """The `id_hash` of each clip."""
        return self._column(self._columns.id_hash)

    @property
    def speaker_codes(self) -> npt.NDArray[np.int32]:
        """The speaker of each clip, as an index into `speakers`."""
        return self._column(self._columns.speaker)

    @property
    def speakers(self) -> tuple[str, ...]:
        """The speakers that `speaker_codes` indexes; "" means none.

        Some may have no clip in this selection.
        """
        return self._columns.speakers

    def splits(self, split_by: SplitBy) -> npt.NDArray[np.uint8]:
        """The `split_code` of each clip: of its explicit split, else of the split by hash (see `Corpus`)."""
        explicit = self.explicit_splits
        if split_by == "speaker":
            codes = np.array([split_code(split_of(name)) for name in self.speakers] or [NONE], np.uint8)
            hashed = codes[self.speaker_codes]
        else:
            hashed = self._column(self._columns.key_split)
        return np.where(explicit == NONE, hashed, explicit)

    def duplicate_ids(self) -> tuple[int, int] | None:
        """Indices of the first two clips with the same id; None if all ids differ."""
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

    # selections and updates

    def select(self, indices: npt.NDArray[np.integer[Any]]) -> Clips:
        """Return the clips at `indices`."""
        rows = indices if self._rows is None else self._rows.values[indices]
        small = len(self._columns) < 2**31
        return Clips(self._source, self._columns, SharedArray(rows.astype(np.int32 if small else np.int64)))

    def with_splits(self, codes: npt.NDArray[np.uint8]) -> Clips:
        """Return the clips with `codes` (`split_code`) as their explicit splits."""
        explicit = self._replace_values(self._columns.explicit_split, codes)
        return Clips(self._source, replace(self._columns, explicit_split=explicit), self._rows)

    def with_durations(self, durations_s: npt.NDArray[np.float64]) -> Clips:
        """Return the clips with these measured durations."""
        columns = replace(
            self._columns,
            duration_s=self._replace_values(self._columns.duration_s, durations_s),
            measured=self._replace_values(self._columns.measured, np.ones(len(self), np.bool_)),
        )
        return Clips(self._source, columns, self._rows)

    def _column(self, column: SharedArray) -> npt.NDArray[Any]:
        return column.values if self._rows is None else column.values[self._rows.values]

    def _replace_values(self, column: SharedArray, values: npt.NDArray[Any]) -> SharedArray:
        """Return a copy of the column with new values for these clips."""
        changed = column.values.copy()
        changed[slice(None) if self._rows is None else self._rows.values] = values
        return SharedArray(changed)

    def _updated_clip(self, row: int, clip: Clip) -> Clip:
        """Return the clip of a row with the split and duration that the columns hold."""
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

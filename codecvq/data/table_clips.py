"""`TableClips`: clips of a table that are built from their records on access.

In memory, a clip takes 8 bytes for the offset of its record in addition to its `Columns`. If a record of the
table has neither an id nor a split, each clip takes 16 bytes more for the fingerprint of its file.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, overload

import numpy as np

from codecvq.data.clip import Clip, ClipFailure
from codecvq.data.clips import ClipListing, Clips
from codecvq.data.columns import ColumnsBuilder, id_hash, to_shared_array
from codecvq.data.content_split import BLOCK, content_keys, with_content_key
from codecvq.data.manifest_row import Row
from codecvq.data.shared_array import SharedArray
from codecvq.data.table import Position, Record, Table
from codecvq.errors import CorpusError
from codecvq.escaping import printable

KEY_BYTES = 16  # size of a fingerprint


class BuiltClip(NamedTuple):
    """The clip of a record, and whether its split is independent of the content of its file."""

    clip: Clip
    has_id: bool  # whether the record has an id or a split; False: its file is read to assign a split


class ClipBuilder(Protocol):
    """Builds clips from records. Must be picklable, as clips are sent to other processes."""

    def build_clip(self, origin: str, row: Row) -> BuiltClip:
        """Build the clip of a record. Raises CorpusError with a message that starts with `origin`."""

    def file_error(self, clip: Clip) -> str:
        """Return why the file of the clip cannot be read, or ""."""


class TableClips(Sequence[Clip]):
    """The clips of the usable records of a table."""

    def __init__(
        self, table: Table, builder: ClipBuilder, offsets: SharedArray, hashes: SharedArray, keys: SharedArray
    ) -> None:
        self._table, self._builder = table, builder
        self._offsets, self._hashes = offsets, hashes  # int64 [M], uint64 [M]
        self._keys = keys  # uint8 [M, KEY_BYTES] or [0, KEY_BYTES]; zeros for a clip with an id

    def __len__(self) -> int:
        return len(self._offsets.values)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Clip]: ...
    def __getitem__(self, index: int | slice) -> Clip | Sequence[Clip]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = Position(int(self._offsets.values[index]), 0)
        try:
            clip = self._builder.build_clip(self._table.name, self._table.row(position)).clip
        except CorpusError as error:
            raise self._changed_error() from error
        if id_hash(clip.id) != int(self._hashes.values[index]):
            raise self._changed_error()
        if not len(self._keys.values):
            return clip
        key = bytes(self._keys.values[index])
        return with_content_key(clip, key.hex() if any(key) else "")

    def _changed_error(self) -> CorpusError:
        return CorpusError(
            f"{self._table.name} was changed since it was opened: a row has moved. Restore the old file, or "
            "restart with the new one."
        )


def table_listing(table: Table, builder: ClipBuilder, *, strict: bool) -> ClipListing:
    """Check all records of a table and return its clips.

    More than `Clips.MAX_IN_MEMORY` clips are not stored in memory but built on access. Clips with missing
    files become failures. A damaged record raises CorpusError if `strict`, and becomes a failure otherwise.
    Raises CorpusError if two records have the same id.
    """
    return _TableReader(table, builder, strict).listing()


class _TableReader:
    """The state of the first reading of a table."""

    def __init__(self, table: Table, builder: ClipBuilder, strict: bool) -> None:
        self.table, self.builder, self.strict = table, builder, strict
        self.offsets = array("q")  # of usable rows
        self.failed_id_hashes = array("Q")
        self.columns, self.failures = ColumnsBuilder(), list[ClipFailure]()
        self.keys = bytearray()
        self.clips: list[Clip] | None = []  # None: too many for memory

    def listing(self) -> ClipListing:
        records = iter(self.table)
        with ThreadPoolExecutor() as pool:
            while block := list(itertools.islice(records, BLOCK)):
                self._add(block, pool)
        columns, offsets = self.columns.columns(), to_shared_array(self.offsets, np.int64)
        self._check_ids(np.concatenate([columns.id_hash.values, np.array(self.failed_id_hashes, np.uint64)]))
        if self.clips is not None:
            return ClipListing(Clips(tuple(self.clips), columns), tuple(self.failures))
        keys = np.frombuffer(self.keys, np.uint8).reshape(-1, KEY_BYTES)
        clips = TableClips(self.table, self.builder, offsets, columns.id_hash, SharedArray(keys))
        return ClipListing(Clips(clips, columns), tuple(self.failures))

    def _add(self, records: list[Record], pool: ThreadPoolExecutor) -> None:
        usable = [(record.position, *built) for record in records if (built := self._build_usable(record))]
        by_content = [clip for _, clip, has_id in usable if not has_id]
        keys = iter(content_keys(by_content, pool))
        if by_content and not self.keys:
            self.keys.extend(bytes(KEY_BYTES * len(self.offsets)))
        for position, clip, has_id in usable:
            key = "" if has_id else next(keys)
            clip = with_content_key(clip, key)
            self.columns.add(clip)
            if self.clips is not None:
                self.clips.append(clip)
            self.offsets.append(position.offset)
            if self.keys or by_content:
                self.keys.extend(bytes.fromhex(key) or bytes(KEY_BYTES))
        if self.clips is not None and len(self.clips) > Clips.MAX_IN_MEMORY:
            self.clips = None

    def _build_usable(self, record: Record) -> BuiltClip | None:
        """Build the clip of a record. Returns None and records the failure if it cannot be used."""
        line, file = record.position.line, printable(self.table.path.name)
        try:
            if record.error:
                raise record.error
            built = self.builder.build_clip(f"{self.table.name}, line {line}", record.row)
        except CorpusError as error:
            if self.strict:
                raise
            self.failures.append(ClipFailure(f"line {line} of {file}", self.table.path, str(error)))
            return None
        if not (problem := self.builder.file_error(built.clip)):
            return built
        self.failed_id_hashes.append(id_hash(built.clip.id))
        self.failures.append(ClipFailure(built.clip.id, built.clip.path, f"line {line} of {file}: {problem}"))
        return None

    def _check_ids(self, hashes: np.ndarray) -> None:
        """Raise CorpusError if two records have the same id. Reads records again only if hashes are equal."""
        hashes.sort()
        if not (equal := hashes[1:] == hashes[:-1]).any():
            return
        lines: dict[str, int] = {}
        for position, id_ in self._ids(set(hashes[1:][equal].tolist())):
            if (other := lines.setdefault(id_, position.line)) != position.line:
                raise CorpusError(
                    f"{self.table.name}: lines {other} and {position.line} have the same id {id_!r}. Give "
                    "each row a unique id."
                )

    def _ids(self, hashes: set[int]) -> Iterator[tuple[Position, str]]:
        for record in self.table:
            try:
                id_ = self.builder.build_clip(self.table.name, record.row).clip.id
            except CorpusError:  # already recorded as a failure
                continue
            if id_hash(id_) in hashes:
                yield record.position, id_

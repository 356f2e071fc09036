"""The clips of a table, each of which is made of its record when it is used: 8 bytes a clip, where its record
begins, beside its `Columns`; and 16, the fingerprint of its file, where the table has no ids.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, overload

import numpy as np

from codecvq.data.clip import Clip, ClipFailure
from codecvq.data.clips import Clips, Listing
from codecvq.data.columns import ColumnsBuilder, id_hash, shared
from codecvq.data.contents import BLOCK, content_keys, with_content
from codecvq.data.manifest_row import Row
from codecvq.data.shared import SharedArray
from codecvq.data.table import Place, Record, Table
from codecvq.errors import CorpusError
from codecvq.escaping import printable

KEY_BYTES = 16  # of a fingerprint


class Made(NamedTuple):
    """The clip of a record."""

    clip: Clip
    has_id: bool  # False: its id is its place in a folder, and it is split by what is in its file


class Maker(Protocol):
    """Makes clips of records. It goes to other processes with them."""

    def make(self, where: str, row: Row) -> Made:
        """The clip of a record; `where` begins each error. Raises CorpusError."""

    def unusable(self, clip: Clip) -> str:
        """Why the file of a clip cannot be read; "" where it can."""


class TableClips(Sequence[Clip]):
    """The clips of those records of a table that can be used."""

    def __init__(
        self, table: Table, maker: Maker, offsets: SharedArray, hashes: SharedArray, keys: SharedArray
    ) -> None:
        self._table, self._maker = table, maker
        self._offsets, self._hashes = offsets, hashes  # int64 [M], uint64 [M]
        self._keys = keys  # uint8 [M, KEY_BYTES] or [0, KEY_BYTES]; a row of zeros for a clip with an id

    def __len__(self) -> int:
        return len(self._offsets.values)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Clip]: ...
    def __getitem__(self, index: int | slice) -> Clip | Sequence[Clip]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = Place(int(self._offsets.values[index]), 0)
        try:
            clip = self._maker.make(self._table.name, self._table.row(place)).clip
        except CorpusError as error:
            raise self._changed() from error
        if id_hash(clip.id) != int(self._hashes.values[index]):
            raise self._changed()
        if not len(self._keys.values):
            return clip
        key = bytes(self._keys.values[index])
        return with_content(clip, key.hex() if any(key) else "")

    def _changed(self) -> CorpusError:
        return CorpusError(
            f"{self._table.name} was changed since it was opened: a row is no longer where it was. Bring the "
            "old file back, or start again with the new one."
        )


def table_listing(table: Table, maker: Maker, *, strict: bool) -> Listing:
    """The clips of a table, every record of which is checked now. Up to `Clips.IN_MEMORY` of them stay in
    memory. A clip whose file is not there is a listed failure. A damaged record raises CorpusError if
    `strict`, and is a listed failure otherwise.
    """
    return _Pass(table, maker, strict).listing()


class _Pass:
    """The state of reading a table for the first time."""

    def __init__(self, table: Table, maker: Maker, strict: bool) -> None:
        self.table, self.maker, self.strict = table, maker, strict
        self.offsets, self.others = array("q"), array("Q")  # of usable rows; hashes of ids of the others
        self.columns, self.failures = ColumnsBuilder(), list[ClipFailure]()
        self.keys = bytearray()
        self.clips: list[Clip] | None = []  # None: more than are kept

    def listing(self) -> Listing:
        records = iter(self.table)
        with ThreadPoolExecutor() as pool:
            while block := list(itertools.islice(records, BLOCK)):
                self._add(block, pool)
        columns, offsets = self.columns.columns(), shared(self.offsets, np.int64)
        self._check_ids(np.concatenate([columns.id_hash.values, np.array(self.others, np.uint64)]))
        if self.clips is not None:
            return Listing(Clips(tuple(self.clips), columns), tuple(self.failures))
        keys = np.frombuffer(self.keys, np.uint8).reshape(-1, KEY_BYTES)
        clips = TableClips(self.table, self.maker, offsets, columns.id_hash, SharedArray(keys))
        return Listing(Clips(clips, columns), tuple(self.failures))

    def _add(self, records: list[Record], pool: ThreadPoolExecutor) -> None:
        usable = [(record.place, *made) for record in records if (made := self._usable(record))]
        by_content = [clip for _, clip, has_id in usable if not has_id]
        keys = iter(content_keys(by_content, pool))
        if by_content and not self.keys:
            self.keys.extend(bytes(KEY_BYTES * len(self.offsets)))
        for place, clip, has_id in usable:
            key = "" if has_id else next(keys)
            clip = with_content(clip, key)
            self.columns.add(clip)
            if self.clips is not None:
                self.clips.append(clip)
            self.offsets.append(place.offset)
            if self.keys or by_content:
                self.keys.extend(bytes.fromhex(key) or bytes(KEY_BYTES))
        if self.clips is not None and len(self.clips) > Clips.IN_MEMORY:
            self.clips = None

    def _usable(self, record: Record) -> Made | None:
        """The clip of a record; None where it is a failure, which is listed."""
        line, file = record.place.line, printable(self.table.path.name)
        try:
            if record.error:
                raise record.error
            made = self.maker.make(f"{self.table.name}, line {line}", record.row)
        except CorpusError as error:
            if self.strict:
                raise
            self.failures.append(ClipFailure(f"line {line} of {file}", self.table.path, str(error)))
            return None
        if not (why := self.maker.unusable(made.clip)):
            return made
        self.others.append(id_hash(made.clip.id))
        self.failures.append(ClipFailure(made.clip.id, made.clip.path, f"line {line} of {file}: {why}"))
        return None

    def _check_ids(self, hashes: np.ndarray) -> None:
        """Raise CorpusError where two records have the same id. They are read again only if two hashes are
        equal.
        """
        hashes.sort()
        if not (equal := hashes[1:] == hashes[:-1]).any():
            return
        lines: dict[str, int] = {}
        for place, id_ in self._ids(set(hashes[1:][equal].tolist())):
            if (other := lines.setdefault(id_, place.line)) != place.line:
                raise CorpusError(
                    f"{self.table.name}: lines {other} and {place.line} have the same id {id_!r}. Give each "
                    "row an id of its own."
                )

    def _ids(self, hashes: set[int]) -> Iterator[tuple[Place, str]]:
        for record in self.table:
            try:
                id_ = self.maker.make(self.table.name, record.row).clip.id
            except CorpusError:  # a listed failure
                continue
            if id_hash(id_) in hashes:
                yield record.place, id_

"""Storing clips of an iterator: in memory if there are few, otherwise in a temporary file."""

from __future__ import annotations

import itertools
import pickle
import reprlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import overload

import numpy as np

from codecvq.data.clip import Clip, ClipFailure
from codecvq.data.clips import ClipListing, Clips
from codecvq.data.columns import ColumnsBuilder, to_shared_array
from codecvq.data.record_file import RecordFile
from codecvq.data.shared_array import temporary_file
from codecvq.errors import CorpusError


class StoredClips(Sequence[Clip]):
    """Clips in a temporary file of this process.

    The file is removed when the sequence is garbage-collected.
    """

    def __init__(self, clips: Iterable[Clip]) -> None:
        ends = array("q", [0])
        path = temporary_file(self, ".clips")
        with path.open("wb") as file:
            for clip in clips:
                try:
                    file.write(content := pickle.dumps(clip, protocol=pickle.HIGHEST_PROTOCOL))
                except (pickle.PicklingError, AttributeError, TypeError) as error:
                    raise CorpusError(
                        f"clip {clip.id!r} cannot be stored ({error}). Its columns must be plain values."
                    ) from error
                ends.append(ends[-1] + len(content))
        self._file, self._ends = RecordFile(path), to_shared_array(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends.values) - 1

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Clip]: ...
    def __getitem__(self, index: int | slice) -> Clip | Sequence[Clip]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        begin, end = self._ends.values[index : index + 2].tolist()
        clip: Clip = pickle.loads(self._file.read(begin, end - begin))
        return clip


def to_listing(result: object) -> ClipListing:
    """Convert the result of a reader or corpus to a listing. Raises CorpusError for other objects."""
    if isinstance(result, ClipListing):
        return replace(result, clips=to_listing(result.clips).clips)
    if isinstance(result, Clips):
        return ClipListing(result)
    if isinstance(result, str) or not isinstance(result, Iterable):
        raise CorpusError(f"it returned {reprlib.repr(result)}, but clips are needed.")
    if isinstance(result, Sequence) and len(result) > Clips.MAX_IN_MEMORY:
        return ClipListing(Clips.from_clips(result))
    return collect_clips(result)


def collect_clips(result: Iterable[Clip | ClipFailure]) -> ClipListing:
    """Collect the clips of an iterator.

    They are stored in memory, or in a temporary file if there are more than `Clips.MAX_IN_MEMORY`.

    Raises CorpusError for items that are neither clips nor failures.
    """
    failures: list[ClipFailure] = []
    builder = ColumnsBuilder()

    def clips() -> Iterator[Clip]:
        for item in result:
            if isinstance(item, ClipFailure):
                failures.append(item)
                continue
            if not isinstance(item, Clip):
                raise CorpusError(f"it returned {type(item).__name__}, but a Clip is needed.")
            builder.add(item)
            yield item

    iterator = clips()
    first = [clip for _, clip in zip(range(Clips.MAX_IN_MEMORY), iterator, strict=False)]
    source: Sequence[Clip] = tuple(first)
    if (another := next(iterator, None)) is not None:
        source = StoredClips(itertools.chain(first, (another,), iterator))
    return ClipListing(Clips(source, builder.columns()), tuple(failures))

"""Clips of an iterator, of any number: in memory while they are few, otherwise in a temporary file."""

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
    """Clips that this process has written into a temporary file of its own, which is removed with them."""

    def __init__(self, clips: Iterable[Clip]) -> None:
        ends = array("q", [0])
        path = temporary_file(self, ".clips")
        with path.open("wb") as file:
            for clip in clips:
                try:
                    file.write(content := pickle.dumps(clip, protocol=pickle.HIGHEST_PROTOCOL))
                except (pickle.PicklingError, AttributeError, TypeError) as error:
                    raise CorpusError(
                        f"clip {clip.id!r} cannot be stored ({error}). Its columns need to be plain values."
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


def to_listing(found: object) -> ClipListing:
    """What a reader or a corpus gave, with its clips as `Clips`. Raises CorpusError for what are no clips."""
    if isinstance(found, ClipListing):
        return replace(found, clips=to_listing(found.clips).clips)
    if isinstance(found, Clips):
        return ClipListing(found)
    if isinstance(found, str) or not isinstance(found, Iterable):
        raise CorpusError(f"it gives {reprlib.repr(found)} where clips are needed.")
    if isinstance(found, Sequence) and len(found) > Clips.MAX_IN_MEMORY:
        return ClipListing(Clips.from_clips(found))
    return collect_clips(found)


def collect_clips(found: Iterable[Clip | ClipFailure]) -> ClipListing:
    """The clips of an iterator: in memory, or more than `Clips.MAX_IN_MEMORY` in a temporary file. Raises
    CorpusError for what is neither a clip nor a failure.
    """
    failures: list[ClipFailure] = []
    builder = ColumnsBuilder()

    def clips() -> Iterator[Clip]:
        for item in found:
            if isinstance(item, ClipFailure):
                failures.append(item)
                continue
            if not isinstance(item, Clip):
                raise CorpusError(f"it gives {type(item).__name__} where a Clip is needed.")
            builder.add(item)
            yield item

    iterator = clips()
    first = [clip for _, clip in zip(range(Clips.MAX_IN_MEMORY), iterator, strict=False)]
    source: Sequence[Clip] = tuple(first)
    if (another := next(iterator, None)) is not None:
        source = StoredClips(itertools.chain(first, (another,), iterator))
    return ClipListing(Clips(source, builder.columns()), tuple(failures))

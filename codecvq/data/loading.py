"""Batches made ahead of their steps: by a thread of this process, by worker processes, or on the device."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from codecvq.data.clip import Clip, ClipFailure
from codecvq.data.corpus import Corpus
from codecvq.data.device_segments import DeviceSegments
from codecvq.data.segments import Segments
from codecvq.errors import CorpusError
from codecvq.escaping import printable

logger = logging.getLogger("codecvq")

T = TypeVar("T")


def prefetch(make: Callable[[int], T], first: int, last: int, depth: int = 4) -> Iterator[T]:
    """What `make` gives for steps from `first` to before `last`, made up to `depth` ahead by a thread. What
    it raises is raised where its step is due.
    """
    ready: queue.Queue[T | BaseException] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(item: T | BaseException) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for step in range(first, last):
                if stop.is_set():
                    return
                put(make(step))
        except BaseException as error:  # raised below: nothing else watches this thread
            put(error)

    thread = threading.Thread(target=work, name="codecvq-segments", daemon=True)
    thread.start()
    try:
        for _ in range(first, last):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


@dataclass(frozen=True)
class Batch:
    """The audio of a step, and the clips that it is from."""

    wav: Tensor  # [B, C, S]
    clips: Sequence[Clip]  # of each item, looked up when it is read


class BatchClips(Sequence[Clip]):
    """Some clips of a corpus, by their places in it; each is looked up when it is read."""

    def __init__(self, corpus: Corpus, indices: Sequence[int]) -> None:
        self.corpus, self.indices = corpus, tuple(indices)

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> BatchClips: ...
    def __getitem__(self, index: int | slice) -> Clip | BatchClips:
        if isinstance(index, slice):
            return BatchClips(self.corpus, self.indices[index])
        return self.corpus[self.indices[index]]


class _Steps(Dataset[tuple[Tensor | str, list[int], dict[int, ClipFailure]]]):
    """The batches of steps from `first` to before `last`, with the clips that they are from and those that
    the worker could not read; in place of one that cannot be made, why: as an error it would come back with
    a worker's traceback.
    """

    def __init__(self, segments: Segments, first: int, last: int, rank: int, world: int) -> None:
        self.segments, self.first, self.last, self.rank, self.world = segments, first, last, rank, world

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> tuple[Tensor | str, list[int], dict[int, ClipFailure]]:
        try:
            wav, clips = self.segments.cut_batch(self.first + index, self.rank, self.world)
        except CorpusError as error:
            return str(error), [], self.segments.unreadable
        return torch.from_numpy(wav), clips, self.segments.unreadable


def load_batches(
    segments: Segments | DeviceSegments,
    first: int,
    last: int,
    rank: int = 0,
    world: int = 1,
    *,
    workers: int = 0,
) -> Iterator[Batch]:
    """Batches for this rank of the steps from `first` to before `last`: on the device where its
    speech is there, else on the CPU, pinned where there is a GPU. Equal for any number of workers, each of
    which keeps decoded audio of its own. A clip that cannot be read is logged when it is met. Raises
    CorpusError where no clip can be read any more.
    """
    source = segments.segments if isinstance(segments, DeviceSegments) else segments
    logged = {failure.id for failure in source.corpus.failures}
    for wav, clips in _batches(segments, first, last, rank, world, workers):
        for failure in source.failures:
            if failure.id not in logged:
                logged.add(failure.id)
                logger.warning("clip %s is left out: %s", printable(failure.id), printable(failure.error))
        yield Batch(wav, BatchClips(source.corpus, clips))


def _batches(
    segments: Segments | DeviceSegments, first: int, last: int, rank: int, world: int, workers: int
) -> Iterator[tuple[Tensor, list[int]]]:
    """The audio of each step, and the clips of its items in the corpus."""
    if isinstance(segments, DeviceSegments):
        for plan in prefetch(lambda step: segments.plan(step, rank, world), first, last):
            yield segments.render(plan), plan[-1].long().tolist()
        return
    pin = torch.cuda.is_available()
    if workers == 0:
        for wav, clips in prefetch(lambda step: segments.cut_batch(step, rank, world), first, last):
            batch = torch.from_numpy(wav)
            yield batch.pin_memory() if pin else batch, clips
        return
    loader = DataLoader(
        _Steps(segments, first, last, rank, world),
        batch_size=None,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=2,
        generator=torch.Generator(),  # or its seed would be drawn from what quantizer dropout draws from
    )
    for batch, clips, unreadable in loader:
        segments.add_failures(unreadable)
        if isinstance(batch, str):
            raise CorpusError(batch)
        yield batch, clips

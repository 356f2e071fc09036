"""Prefetching of batches by a thread, by worker processes, or on the device."""

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
    """Yield `make(step)` for each step in `range(first, last)`, computed up to `depth` steps ahead.

    A thread calls `make`. Its exceptions are raised when their step is due.
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
        except BaseException as error:  # raised again in the consumer
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
    """The audio of a step and its clips."""

    wav: Tensor  # [B, C, S]
    clips: Sequence[Clip]  # the clip of each item, looked up on access


class BatchClips(Sequence[Clip]):
    """The clips of a batch, given by their indices in the corpus and looked up on access."""

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


class _StepDataset(Dataset[tuple[Tensor | str, list[int], dict[int, ClipFailure]]]):
    """Dataset of the steps in `range(first, last)` for worker processes.

    An item is the batch, the indices of its clips, and the clips that the worker could not read. The error
    message replaces a batch that cannot be created: an exception would include the traceback of the worker.
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
    """Yield the batches of the steps in `range(first, last)` for this rank.

    Batches of `DeviceSegments` are on the device, others on the CPU, pinned if there is a GPU. The batches do
    not depend on the number of workers; each worker has its own cache of decoded audio. Logs a warning for
    each clip that cannot be read. Raises CorpusError if no clip can be read.
    """
    source = segments.segments if isinstance(segments, DeviceSegments) else segments
    logged = {failure.id for failure in source.corpus.failures}
    for wav, clips in _batches(segments, first, last, rank, world, workers):
        for failure in source.failures:
            if failure.id not in logged:
                logged.add(failure.id)
                logger.warning("clip %s is skipped: %s", printable(failure.id), printable(failure.error))
        yield Batch(wav, BatchClips(source.corpus, clips))


def _batches(
    segments: Segments | DeviceSegments, first: int, last: int, rank: int, world: int, workers: int
) -> Iterator[tuple[Tensor, list[int]]]:
    """Yield the audio of each step and the indices of its clips in the corpus."""
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
        _StepDataset(segments, first, last, rank, world),
        batch_size=None,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=2,
        generator=torch.Generator(),  # else its seed comes from the generator of quantizer dropout
    )
    for batch, clips, unreadable in loader:
        segments.add_failures(unreadable)
        if isinstance(batch, str):
            raise CorpusError(batch)
        yield batch, clips

"""Batches made ahead of their steps: by a thread of this process, or by worker processes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from codecvq.errors import CorpusError
from codecvq.training.corpus import ClipFailure
from codecvq.training.segments import Segments


class _Steps(Dataset[tuple[Tensor | str, tuple[ClipFailure, ...]]]):
    """The batches of steps from `first` to before `last`, with the clips that the worker could not read; in
    place of one that cannot be made, why: as an error it would come back with a worker's traceback.
    """

    def __init__(self, segments: Segments, first: int, last: int, rank: int, world: int) -> None:
        self.segments, self.first, self.last, self.rank, self.world = segments, first, last, rank, world

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> tuple[Tensor | str, tuple[ClipFailure, ...]]:
        try:
            wav = self.segments.batch(self.first + index, self.rank, self.world)
        except CorpusError as error:
            return str(error), self.segments.failures
        return torch.from_numpy(wav), self.segments.failures


def load_batches(
    segments: Segments, first: int, last: int, rank: int = 0, world: int = 1, *, workers: int = 0
) -> Iterator[tuple[int, Tensor]]:
    """Steps from `first` to before `last`, each with its audio `[B, C, S]` for this rank, pinned where there
    is a GPU. Equal for any number of workers, each of which keeps decoded audio of its own. Raises
    CorpusError where no clip can be read any more.
    """
    pin = torch.cuda.is_available()
    if workers == 0:
        for step, wav in segments.prefetch(first, last, rank, world):
            batch = torch.from_numpy(wav)
            yield step, batch.pin_memory() if pin else batch
        return
    loader = DataLoader(
        _Steps(segments, first, last, rank, world),
        batch_size=None,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=2,
        generator=torch.Generator(),  # or its seed would be drawn from what quantizer dropout draws from
    )
    for step, (batch, failures) in enumerate(loader, first):
        segments.note_failures(failures)
        if isinstance(batch, str):
            raise CorpusError(batch)
        yield step, batch

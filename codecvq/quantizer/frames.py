"""Frames as vectors: latents `[B, D, T]` to vectors `[M, D]` of the real frames, and back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Latents of so few channels stay channel by channel in memory: an operation on rows of four numbers, as of
# FSQ, takes longer to begin each row than to do it.
FEW_CHANNELS = 16


@dataclass(frozen=True)
class Frames:
    """Which item and frame each of M vectors is.

    Vectors of a batch are its real frames, item after item; `select` gives those of some of them.
    """

    count: int  # B, also where the last items have no real frame
    length: int  # T
    real: Tensor | None  # [B·T] bool; None: all
    device: torch.device
    rows: Tensor | None = None  # [M] which of the real frames these are; None: all

    @property
    def positions(self) -> Tensor:
        """b·T + t of each vector, int64 `[M]`."""
        if self.real is None:
            every = torch.arange(self.count * self.length, device=self.device)
        else:
            every = self.real.nonzero()[:, 0]
        return every if self.rows is None else every[self.rows]

    @property
    def items(self) -> Tensor:
        """The item of each vector, int64 `[M]`; computed on each call."""
        index = torch.arange(self.count, device=self.device).repeat_interleave(self.length)
        index = index if self.real is None else index[self.real]
        return index if self.rows is None else index[self.rows]

    @property
    def is_complete(self) -> bool:
        """Whether every frame of the batch is among them."""
        return self.real is None and self.rows is None

    def select(self, rows: Tensor | slice) -> Frames:
        """Those of the vectors at `rows`, int64 `[m]`; a slice is all of them."""
        if isinstance(rows, slice):
            return self
        return replace(self, rows=rows if self.rows is None else self.rows[rows])

    def to_items(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors `[M, X]` as items `[B, X, T]`, zero elsewhere, and the mask `[B, T]` of these."""
        shape = (self.count, self.length)
        if self.is_complete:
            mask = torch.ones(shape, dtype=torch.bool, device=self.device)
            return vectors.unflatten(0, shape).transpose(1, 2), mask
        positions, total = self.positions, self.count * self.length
        full = vectors.new_zeros(total, vectors.shape[1]).index_copy(0, positions, vectors)
        mask = torch.zeros(total, dtype=torch.bool, device=self.device).index_fill_(0, positions, True)
        return full.unflatten(0, shape).transpose(1, 2), mask.view(shape)

    def to_vectors(self, items: Tensor) -> Tensor:
        """The inverse of `to_items`: items `[B, X, T]` -> vectors `[M, X]`."""
        rows = items.transpose(1, 2).flatten(0, 1)
        return rows if self.is_complete else rows[self.positions]

    def blocks(self, stride: int) -> Blocks:
        """The blocks of `stride` frames that these vectors are in."""
        per_item = -(-self.length // stride)
        positions = self.positions
        index = positions // self.length * per_item + positions % self.length // stride  # [M]
        total = self.count * per_item
        if self.is_complete:
            frames = Frames(self.count, per_item, None, self.device)
        else:  # number those that have a frame
            present = torch.zeros(total, dtype=torch.bool, device=self.device).index_fill_(0, index, True)
            index = (present.cumsum(0) - 1)[index]
            frames = Frames(self.count, per_item, present, self.device)
            total = int(present.sum())
        order = torch.arange(len(index), device=self.device)
        first = order.new_full((total,), len(index)).scatter_reduce_(0, index, order, "amin")
        return Blocks(frames, index, first)


@dataclass(frozen=True)
class Blocks:
    """Blocks of frames as vectors of their own, P of them."""

    frames: Frames  # of the blocks
    index: Tensor  # [M] int64, the block of each vector
    first: Tensor  # [P] int64, the first vector of each block

    def mean(self, vectors: Tensor) -> Tensor:
        """The mean over the vectors of each block: `[M, D]` -> `[P, D]`."""
        sums = vectors.new_zeros(len(self.first), vectors.shape[1]).index_add(0, self.index, vectors)
        ones = torch.ones(len(vectors), dtype=vectors.dtype, device=vectors.device)
        return sums / vectors.new_zeros(len(self.first)).index_add(0, self.index, ones)[:, None]

    def repeat(self, rows: Tensor) -> Tensor:
        """The row of its block for each vector: `[P, X]` -> `[M, X]`."""
        return rows[self.index]

    def first_rows(self, rows: Tensor) -> Tensor:
        """The row of the first vector of each block: `[M, X]` -> `[P, X]`."""
        return rows[self.first]


def real_vectors(latents: Tensor, mask: Tensor | None) -> tuple[Tensor, Frames]:
    """Real frames of latents `[B, D, T]` as float32 vectors `[M, D]`, and which frames they are."""
    batch, _, frames = latents.shape
    if latents.shape[1] <= FEW_CHANNELS:
        vectors = latents.transpose(0, 1).flatten(1).float().T
    else:
        vectors = _transposed(latents).flatten(0, 1)
    real = None if mask is None else mask.flatten()
    of_batch = Frames(batch, frames, real, latents.device)
    return vectors if real is None else vectors[real], of_batch


def _transposed(latents: Tensor) -> Tensor:
    """`[B, D, T]` -> float32 `[B, T, D]`."""
    if latents.is_cuda or latents.requires_grad or torch.compiler.is_compiling():
        return latents.transpose(1, 2).float()
    batch, dim, frames = latents.shape
    rows = torch.empty(batch, frames, dim, dtype=torch.float32, device=latents.device)
    for row, item in zip(rows, latents, strict=True):
        row.copy_(item.T)  # on a CPU, torch transposes a matrix twice as fast as a batch of them
    return rows


def finite_frames(latents: Tensor) -> Tensor:
    """Which frames are free of NaN and infinity: `[B, D, T]` -> bool `[B, T]`.

    The greatest magnitude of a frame tells, and is found many times faster than each number is asked. NaN is
    greater than any, and below nothing.
    """
    return latents.detach().abs().amax(dim=1).float() < torch.inf


def all_finite(latents: Tensor) -> Tensor:
    """Whether there is no NaN and no infinity: 0-d bool."""
    if latents.numel() == 0:
        return torch.ones((), dtype=torch.bool, device=latents.device)
    least, greatest = latents.detach().aminmax()
    return (least.float() > -torch.inf) & (greatest.float() < torch.inf)


def to_batch(rows: Tensor, frames: Frames) -> Tensor:
    """Rows `[M, X]` of a whole batch in their places, zero elsewhere: `[B, X, T]`."""
    if frames.real is not None:
        full = rows.new_zeros(frames.count * frames.length, rows.shape[1])
        rows = full.masked_scatter(frames.real[:, None], rows)
    return rows.reshape(frames.count, frames.length, rows.shape[1]).transpose(1, 2)

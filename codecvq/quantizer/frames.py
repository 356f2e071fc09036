"""Conversion between latents `[B, D, T]` and vectors `[M, D]` of their real frames."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Up to this number of channels, vectors keep the memory layout of latents, channel by channel. Operations on
# very short rows, as in FSQ, spend most of their time on the overhead of each row.
FEW_CHANNELS = 16


@dataclass(frozen=True)
class Frames:
    """Batch item and frame of each of M vectors.

    A real frame is a frame that is not padding. The vectors of a batch are its real frames, item after item.
    `select` returns the `Frames` of a subset.
    """

    count: int  # B, including items without a real frame
    length: int  # T
    real: Tensor | None  # [B·T] bool: the real frames; None: all frames
    device: torch.device
    rows: Tensor | None = None  # [M] indices into the real frames; None: all real frames

    @property
    def positions(self) -> Tensor:
        """Position b·T + t of each vector, int64 `[M]`."""
        if self.real is None:
            every = torch.arange(self.count * self.length, device=self.device)
        else:
            every = self.real.nonzero()[:, 0]
        return every if self.rows is None else every[self.rows]

    @property
    def items(self) -> Tensor:
        """Batch item of each vector, int64 `[M]`; computed on each access."""
        index = torch.arange(self.count, device=self.device).repeat_interleave(self.length)
        index = index if self.real is None else index[self.real]
        return index if self.rows is None else index[self.rows]

    @property
    def is_complete(self) -> bool:
        """Whether the vectors are all frames of the batch, without padding or selection."""
        return self.real is None and self.rows is None

    def select(self, rows: Tensor | slice) -> Frames:
        """Return the `Frames` of the vectors at `rows`, int64 `[m]`. A slice stands for all vectors."""
        if isinstance(rows, slice):
            return self
        return replace(self, rows=rows if self.rows is None else self.rows[rows])

    def to_items(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Scatter vectors `[M, X]` to items `[B, X, T]`, zeros elsewhere.

        Also returns the mask of these frames, bool `[B, T]`.
        """
        shape = (self.count, self.length)
        if self.is_complete:
            mask = torch.ones(shape, dtype=torch.bool, device=self.device)
            return vectors.unflatten(0, shape).transpose(1, 2), mask
        positions, total = self.positions, self.count * self.length
        full = vectors.new_zeros(total, vectors.shape[1]).index_copy(0, positions, vectors)
        mask = torch.zeros(total, dtype=torch.bool, device=self.device).index_fill_(0, positions, True)
        return full.unflatten(0, shape).transpose(1, 2), mask.view(shape)

    def to_vectors(self, items: Tensor) -> Tensor:
        """Gather vectors from items: `[B, X, T]` -> `[M, X]`, the inverse of `to_items`."""
        rows = items.transpose(1, 2).flatten(0, 1)
        return rows if self.is_complete else rows[self.positions]

    def blocks(self, stride: int) -> Blocks:
        """Return the blocks of `stride` frames that contain these vectors."""
        per_item = -(-self.length // stride)
        positions = self.positions
        index = positions // self.length * per_item + positions % self.length // stride  # [M]
        total = self.count * per_item
        if self.is_complete:
            frames = Frames(self.count, per_item, None, self.device)
        else:  # number only the blocks that contain a vector
            present = torch.zeros(total, dtype=torch.bool, device=self.device).index_fill_(0, index, True)
            index = (present.cumsum(0) - 1)[index]
            frames = Frames(self.count, per_item, present, self.device)
            total = int(present.sum())
        order = torch.arange(len(index), device=self.device)
        first = order.new_full((total,), len(index)).scatter_reduce_(0, index, order, "amin")
        return Blocks(frames, index, first)


@dataclass(frozen=True)
class Blocks:
    """P blocks of consecutive frames, each of which is quantized as one vector."""

    frames: Frames  # batch item and position of each block
    index: Tensor  # [M] int64: block of each vector
    first: Tensor  # [P] int64: first vector of each block

    def mean(self, vectors: Tensor) -> Tensor:
        """Average the vectors of each block: `[M, D]` -> `[P, D]`."""
        sums = vectors.new_zeros(len(self.first), vectors.shape[1]).index_add(0, self.index, vectors)
        ones = torch.ones(len(vectors), dtype=vectors.dtype, device=vectors.device)
        return sums / vectors.new_zeros(len(self.first)).index_add(0, self.index, ones)[:, None]

    def repeat(self, rows: Tensor) -> Tensor:
        """Repeat the row of each block for all its vectors: `[P, X]` -> `[M, X]`."""
        return rows[self.index]

    def first_rows(self, rows: Tensor) -> Tensor:
        """Select the row of the first vector of each block: `[M, X]` -> `[P, X]`."""
        return rows[self.first]


def real_vectors(latents: Tensor, mask: Tensor | None) -> tuple[Tensor, Frames]:
    """Return the real frames of latents `[B, D, T]` as float32 vectors `[M, D]`, and their `Frames`."""
    batch, _, frames = latents.shape
    if latents.shape[1] <= FEW_CHANNELS:
        vectors = latents.transpose(0, 1).flatten(1).float().T
    else:
        vectors = _transposed(latents).flatten(0, 1)
    real = None if mask is None else mask.flatten()
    of_batch = Frames(batch, frames, real, latents.device)
    return vectors if real is None else vectors[real], of_batch


def _transposed(latents: Tensor) -> Tensor:
    """Transpose `[B, D, T]` to float32 `[B, T, D]`."""
    if latents.is_cuda or latents.requires_grad or torch.compiler.is_compiling():
        return latents.transpose(1, 2).float()
    batch, dim, frames = latents.shape
    rows = torch.empty(batch, frames, dim, dtype=torch.float32, device=latents.device)
    for row, item in zip(rows, latents, strict=True):
        row.copy_(item.T)  # on a CPU, torch transposes a matrix twice as fast as a batch of them
    return rows


def finite_frames(latents: Tensor) -> Tensor:
    """Return which frames contain no NaN or infinity: `[B, D, T]` -> bool `[B, T]`.

    It compares the greatest magnitude of each frame, which is many times faster than `isfinite` on every
    element. NaN propagates through `amax`, and no comparison with NaN is True.
    """
    return latents.detach().abs().amax(dim=1).float() < torch.inf


def all_finite(latents: Tensor) -> Tensor:
    """Whether there is no NaN and no infinity: 0-d bool."""
    if latents.numel() == 0:
        return torch.ones((), dtype=torch.bool, device=latents.device)
    least, greatest = latents.detach().aminmax()
    return (least.float() > -torch.inf) & (greatest.float() < torch.inf)


def to_batch(rows: Tensor, frames: Frames) -> Tensor:
    """Scatter rows `[M, X]` of the real frames of a whole batch: `[B, X, T]`, zeros at padding."""
    if frames.real is not None:
        full = rows.new_zeros(frames.count * frames.length, rows.shape[1])
        rows = full.masked_scatter(frames.real[:, None], rows)
    return rows.reshape(frames.count, frames.length, rows.shape[1]).transpose(1, 2)

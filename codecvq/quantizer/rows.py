"""Frames as rows: latents `[B, D, T]` to vectors `[M, D]` of the real frames, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Latents of so few channels stay channel by channel in memory: an operation on rows of four numbers, as of
# FSQ, takes longer to begin each row than to do it.
FEW = 16


@dataclass(frozen=True)
class Items:
    """Which item of the batch each vector is of."""

    count: int  # B, also where the last items have no real frame
    frames: int  # T
    real: Tensor | None  # [B·T] bool; None: all
    device: torch.device

    @property
    def index(self) -> Tensor:
        """The item of each vector, int64 `[M]`; made only when asked for."""
        index = torch.arange(self.count, device=self.device).repeat_interleave(self.frames)
        return index if self.real is None else index[self.real]


def real_rows(latents: Tensor, mask: Tensor | None) -> tuple[Tensor, Items, Tensor | None]:
    """Real frames as float32 vectors `[M, D]`, their items, and where they were `[B·T]` (None: all)."""
    batch, _, frames = latents.shape
    if latents.shape[1] <= FEW:
        vectors = latents.transpose(0, 1).flatten(1).float().T
    else:
        vectors = _transposed(latents).flatten(0, 1)
    real = None if mask is None else mask.flatten()
    items = Items(batch, frames, real, latents.device)
    return vectors if real is None else vectors[real], items, real


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


def in_place(rows: Tensor, real: Tensor | None, shape: tuple[int, int]) -> Tensor:
    """Rows `[M, X]` back in their places, zero elsewhere: `[B, X, T]`; `shape` is B and T."""
    batch, frames = shape
    if real is not None:
        full = rows.new_zeros(batch * frames, rows.shape[1])
        rows = full.masked_scatter(real[:, None], rows)
    return rows.reshape(batch, frames, rows.shape[1]).transpose(1, 2)

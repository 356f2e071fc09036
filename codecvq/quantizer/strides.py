"""Codebooks at different frame rates: conversion between `[..., N, T]` and one tensor per codebook.

In memory, codes are rectangular, `[..., N, T]`. A codebook of stride s has one code per block of s frames,
repeated over the block. Frame t belongs to block t // s, so T frames have ceil(T / s) blocks, and the last
one may be short. Files and datasets store one code per block.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from codecvq.errors import ShapeError
from codecvq.quantizer.checks import raise_if


def blocks(frames: int, stride: int) -> int:
    """Return the number of blocks that cover `frames` frames: ceil(frames / stride)."""
    return -(-frames // stride)


def split_codes(codes: Tensor, strides: Sequence[int]) -> list[Tensor]:
    """Split codes `[..., N, T]` into one tensor per codebook: `[..., T_n]` with T_n = ceil(T / strides[n]).

    N may be less than `len(strides)`. Raises ShapeError if codes change within a block.
    """
    check_blocks(codes, strides)
    return [codes[..., n, :: strides[n]] for n in range(codes.shape[-2])]


def join_codes(parts: Sequence[Tensor], strides: Sequence[int], frames: int) -> Tensor:
    """Join one tensor per codebook: `[..., T_n]` -> codes `[..., N, T]` with T = `frames`.

    It is the inverse of `split_codes`. Raises ShapeError for a tensor whose length is not ceil(T /
    strides[n]).
    """
    for n, part in enumerate(parts):
        if part.shape[-1] != blocks(frames, strides[n]):
            raise ShapeError(
                f"codebook {n} has {part.shape[-1]} codes; {frames} frames with stride {strides[n]} need "
                f"{blocks(frames, strides[n])}."
            )
    repeated = [part.repeat_interleave(strides[n], dim=-1)[..., :frames] for n, part in enumerate(parts)]
    return torch.stack(repeated, dim=-2)


def check_blocks(codes: Tensor, strides: Sequence[int], mask: Tensor | None = None) -> None:
    """Raise ShapeError if codes `[..., N, T]` change within a block of their codebook.

    Ignores padding frames, where `mask` `[..., T]` is False.
    """
    for n, stride in enumerate(strides[: codes.shape[-2]]):
        if stride == 1:
            continue
        own = codes[..., n, :]
        first = own[..., ::stride].repeat_interleave(stride, dim=-1)[..., : own.shape[-1]]
        changed = own != first if mask is None else (own != first) & mask
        raise_if(changed, partial(_changes, changed, n, stride))


def _changes(changed: Tensor, n: int, stride: int) -> ShapeError:
    return ShapeError(
        f"codes of codebook {n} change at frame {int(changed.nonzero()[0, -1])}, but it has one code for "
        f"{stride} frames. Use codecvq.quantizer.join_codes to repeat codes over their frames."
    )

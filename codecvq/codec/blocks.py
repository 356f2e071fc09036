"""Converts codes `[N, T]` of codebooks at different frame rates to and from their stored form, in numpy.

In memory, a codebook of stride s repeats one code over each block of s frames. Files and datasets store
ceil(T / s) codes. `codecvq.quantizer.strides` has the same functions for tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Integers = TypeVar("Integers", bound=np.integer[Any])


def block_count(frames: int, stride: int) -> int:
    """Return the number of blocks of `stride` frames that cover `frames` frames."""
    return -(-frames // stride)


def split_blocks(codes: npt.NDArray[Integers], strides: Sequence[int]) -> list[npt.NDArray[Integers]]:
    """Return one code per block for each codebook: codes `[N, T]` -> a list of `[ceil(T / stride)]`."""
    return [book[::stride] for book, stride in zip(codes, strides, strict=False)]


def join_blocks(
    parts: Sequence[npt.NDArray[Integers]], strides: Sequence[int], frames: int
) -> npt.NDArray[Integers]:
    """Return codes `[N, T]` from one code per block; the inverse of `split_blocks`."""
    at = np.arange(frames)
    return np.stack([part[at // stride] for part, stride in zip(parts, strides, strict=False)])


def first_change(codes: npt.NDArray[Any], strides: Sequence[int]) -> tuple[int, int] | None:
    """Return codebook and frame of the first code that differs from the first code of its block.

    Returns None if the code is constant in each block of codes `[N, T]`.
    """
    if all(stride == 1 for stride in strides):
        return None
    changes = np.argwhere(codes != join_blocks(split_blocks(codes, strides), strides, codes.shape[1]))
    return (int(changes[0, 0]), int(changes[0, 1])) if len(changes) else None

"""Codebooks at different frame rates, in numpy: what files and datasets store of codes `[N, T]`.

Codes in memory are rectangular: a codebook of stride s has one code for a block of s frames and repeats it
over them. Stored are ceil(T / s) codes. `codecvq.quantizer.strides` has the same for tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Integers = TypeVar("Integers", bound=np.integer[Any])


def block_count(frames: int, stride: int) -> int:
    """How many blocks of `stride` frames cover `frames` frames."""
    return -(-frames // stride)


def split_blocks(codes: npt.NDArray[Integers], strides: Sequence[int]) -> list[npt.NDArray[Integers]]:
    """The codes `[T_n]` of each codebook of codes `[N, T]`, one for each block."""
    return [row[::stride] for row, stride in zip(codes, strides, strict=False)]


def join_blocks(
    parts: Sequence[npt.NDArray[Integers]], strides: Sequence[int], frames: int
) -> npt.NDArray[Integers]:
    """Codes `[N, T]` from one code for each block: the inverse of `split_blocks`."""
    at = np.arange(frames)
    return np.stack([part[at // stride] for part, stride in zip(parts, strides, strict=False)])


def first_change(codes: npt.NDArray[Any], strides: Sequence[int]) -> tuple[int, int] | None:
    """Codebook and frame where codes `[N, T]` first change within a block; None where they never do."""
    if all(stride == 1 for stride in strides):
        return None
    wrong = np.argwhere(codes != join_blocks(split_blocks(codes, strides), strides, codes.shape[1]))
    return (int(wrong[0, 0]), int(wrong[0, 1])) if len(wrong) else None

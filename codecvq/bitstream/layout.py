"""The layout of codes `[N, T]` in a file: one code per block, without absent codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from codecvq.bitstream.packed import Codes
from codecvq.codec.blocks import block_count, join_blocks, split_blocks


@dataclass(frozen=True)
class Layout:
    """Codebook sizes, strides, frames and depths; together they determine which codes are stored."""

    sizes: tuple[int, ...]  # K of each codebook
    strides: tuple[int, ...]  # frames per block
    frames: int  # T
    depths: Codes | None = None  # [T], number of codes of each frame; None: all codebooks

    @classmethod
    def full(cls, sizes: Sequence[int], frames: int) -> Layout:
        """Return the layout with a code of every codebook at every frame."""
        return cls(tuple(sizes), (1,) * len(sizes), frames)

    @property
    def is_full(self) -> bool:
        """Whether every codebook has a code at every frame."""
        return self.depths is None and all(stride == 1 for stride in self.strides)

    @cached_property
    def stored(self) -> npt.NDArray[np.bool_]:
        """`[N, T]`, True at the stored codes."""
        stored = np.zeros((len(self.sizes), self.frames), dtype=bool)
        for book, stride in enumerate(self.strides):
            stored[book, ::stride] = True
        return stored if self.depths is None else stored & ~self._absent(self.depths)

    @property
    def counts(self) -> list[int]:
        """The number of stored codes of each codebook."""
        if self.depths is None:
            return [block_count(self.frames, stride) for stride in self.strides]
        return [int(count) for count in self.stored.sum(axis=1)]

    @property
    def depths_layout(self) -> Layout:
        """The layout of the depths: one codebook with the values 0 to N, one code per frame."""
        return Layout.full((len(self.sizes) + 1,), self.frames)

    def with_depths(self, depths: Codes | None) -> Layout:
        """Return a copy with these depths `[T]`."""
        return replace(self, depths=depths)

    def expand(self, codes: Codes) -> Codes | None:
        """Return codes `[N, T]` as in memory: stored codes repeat over their blocks, absent codes are -1.

        Returns None if a depth changes within a block of a codebook.
        """
        if self.is_full:
            return codes
        if self.depths is not None:
            codes = np.where(self.stored, codes, -1)
        codes = join_blocks(split_blocks(codes, self.strides), self.strides, self.frames)
        if self.depths is not None and ((codes < 0) != self._absent(self.depths)).any():
            return None
        return codes

    def _absent(self, depths: Codes) -> npt.NDArray[np.bool_]:
        """True at the absent codes: depths `[T]` -> `[N, T]`."""
        absent: npt.NDArray[np.bool_] = np.arange(len(self.sizes))[:, None] >= depths
        return absent

"""Which codes of `[N, T]` a file holds: one for each block of a codebook, and none where one is absent."""

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
    """Codebooks, frames, and which codes are stored."""

    sizes: tuple[int, ...]  # K of each codebook
    strides: tuple[int, ...]  # frames of a block
    frames: int  # T
    depths: Codes | None = None  # [T], codebooks of each frame; None: all

    @classmethod
    def full(cls, sizes: Sequence[int], frames: int) -> Layout:
        """Every codebook has a code at every frame."""
        return cls(tuple(sizes), (1,) * len(sizes), frames)

    @property
    def is_full(self) -> bool:
        """Whether every codebook has a code at every frame."""
        return self.depths is None and all(stride == 1 for stride in self.strides)

    @cached_property
    def stored(self) -> npt.NDArray[np.bool_]:
        """`[N, T]`, True where a code is stored."""
        stored = np.zeros((len(self.sizes), self.frames), dtype=bool)
        for book, stride in enumerate(self.strides):
            stored[book, ::stride] = True
        return stored if self.depths is None else stored & ~self._absent(self.depths)

    @property
    def counts(self) -> list[int]:
        """How many codes of each codebook are stored."""
        if self.depths is None:
            return [block_count(self.frames, stride) for stride in self.strides]
        return [int(count) for count in self.stored.sum(axis=1)]

    @property
    def depths_layout(self) -> Layout:
        """The depth of each frame as one codebook with the values 0 to N."""
        return Layout.full((len(self.sizes) + 1,), self.frames)

    def with_depths(self, depths: Codes | None) -> Layout:
        """The same with these depths `[T]`."""
        return replace(self, depths=depths)

    def expand(self, codes: Codes) -> Codes | None:
        """Codes `[N, T]` as they are in memory, from those that are stored: repeated over their blocks, and
        -1 where a code is absent. None where depths change within a block of a codebook.
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
        absent: npt.NDArray[np.bool_] = np.arange(len(self.sizes))[:, None] >= depths
        return absent

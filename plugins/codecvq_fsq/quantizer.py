"""Finite scalar quantization (arXiv:2309.15505): every channel is bounded and rounded to one of its L levels.

The symmetric bound, the default, reaches every level and is odd, for even L too:

    x = tanh z        k = floor((L - 1)(x + 1)/2 + 1/2) in 0 … L - 1        value = 2k/(L - 1) - 1

The original one (its appendix A.1) shifts even L by half a level, so that 0 is a level: values k/⌊L/2⌋ - 1.
The code of a vector is the mixed-radix number Σ k_j Π_{i<j} L_i, the first channel fastest, in int64 from the
whole numbers k_j and never from the values: exact up to 2^62.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from codecvq import Quantizer
from codecvq.errors import OptionError

EPSILON = 1e-3  # of the original bound: keeps tanh from rounding to a level beyond the last


class FSQ(Quantizer):
    """Channels rounded to `levels` values each; `num_codebooks` such codes side by side.

    Args: `levels` one L per channel of a codebook; where `len(levels) * num_codebooks` is not `dim` there is
    a projection; `bound` "symmetric" or "original".
    """

    refines = True
    levels: Tensor  # [d] int64, of one codebook
    radix: Tensor  # [d] int64: Π of the levels before

    def __init__(
        self,
        dim: int,
        levels: Sequence[int],
        *,
        num_codebooks: int = 1,
        bound: Literal["symmetric", "original"] = "symmetric",
        estimator: str = "ste",
    ) -> None:
        _check_options(levels, num_codebooks, bound)
        size = math.prod(levels)
        super().__init__(
            dim, [size] * num_codebooks, code_dim=len(levels) * num_codebooks, estimator=estimator
        )
        self.kind = bound
        radix = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.int64), persistent=False)
        self.register_buffer("radix", torch.tensor(radix, dtype=torch.int64), persistent=False)

    def bound(self, vectors: Tensor) -> Tensor:
        """Channels in the range of the values: `[M, D]` -> `[M, D]`."""
        if self.kind == "symmetric":
            return vectors.tanh()
        levels = self.levels.repeat(self.num_codebooks).to(vectors)  # [D]
        half_range = (levels - 1) * (1 + EPSILON) / 2
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        bounded = (vectors + (offset / half_range).atanh()).tanh() * half_range - offset
        return bounded / (levels // 2)

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Rounded values and codes: `[M, D]` -> `[M, D]`, `[M, N]`."""
        channels = rearrange(vectors, "m (n d) -> m n d", n=self.num_codebooks)
        last = (self.levels - 1).to(vectors)
        if self.kind == "symmetric":
            steps = ((channels.clamp(-1, 1) + 1) * (last / 2) + 0.5).floor()
        else:
            half = self.levels // 2
            steps = torch.minimum((channels * half).round() + half, last).clamp(min=0)
        digits = steps.long()  # [M, N, d]
        return self._values(digits), (digits * self.radix).sum(dim=2)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Values of codes: `[M, N]` -> `[M, D]`."""
        return self._values(codes[:, :, None] // self.radix % self.levels)

    def stage_scale(self, stage: int) -> Tensor:
        """`L^-stage` per channel: the cells of a stage are cut into L by the next."""
        return self.levels.repeat(self.num_codebooks).double().pow(-stage).float()

    def _values(self, digits: Tensor) -> Tensor:
        if (
            self.kind == "symmetric"
        ):  # 0 … L - 1 to -1 … 1, computed so that k and L - 1 - k give exactly opposite values
            values = (2 * digits - (self.levels - 1)).float() / (self.levels - 1)
        else:
            values = (digits - self.levels // 2).float() / (self.levels // 2)
        return rearrange(values, "m n d -> m (n d)")


def _check_options(levels: Sequence[int], num_codebooks: int, bound: str) -> None:
    if isinstance(levels, (str, int)) or not levels or any(not isinstance(n, int) or n < 2 for n in levels):
        raise OptionError(
            f"fsq: levels is {levels!r}; needed is a list of whole numbers from 2 up, as [8, 5, 5, 5]"
        )
    if math.prod(levels) > 2**62:
        raise OptionError(
            f"fsq: levels {list(levels)} make a codebook of {math.prod(levels)}, more than 2^62. Use "
            "num_codebooks."
        )
    if not isinstance(num_codebooks, int) or num_codebooks < 1:
        raise OptionError(f"fsq: num_codebooks is {num_codebooks!r}; needed is a whole number from 1 up")
    if bound not in ("symmetric", "original"):
        raise OptionError(f"fsq: bound is {bound!r}; it is symmetric or original")

"""Finite scalar quantization (arXiv:2309.15505): every channel is bounded and rounded to one of its L levels.

The symmetric bound, the default, reaches every level and is odd, for even L too:

    x = tanh z        k = floor((L - 1)(x + 1)/2 + 1/2) in 0 … L - 1        value = 2k/(L - 1) - 1

The original one (its appendix A.1) shifts even L by half a level, so that 0 is a level: values k/⌊L/2⌋ - 1.
The code of a vector is the mixed-radix number Σ k_j Π_{i<j} L_i, the first channel fastest, from the whole
numbers k_j and never from the values: exact up to 2^62. Up to 2^52 it is counted in float64, which is exact
too, and several times faster: processors divide many floats at a time, but one int64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from codecvq import Quantizer
from codecvq.errors import OptionError

EXACT = 2**52  # up to here float64 holds every whole number, and floor(a / b) of two is exact
EPSILON = 1e-3  # of the original bound: keeps tanh from rounding to a level beyond the last


class FSQ(Quantizer):
    """Channels rounded to `levels` values each; `num_codebooks` such codes side by side.

    Args: `levels` one L per channel of a codebook; where `len(levels) * num_codebooks` is not `dim` there is
    a projection; `bound` "symmetric" or "original".
    """

    refines = True
    levels: Tensor  # [d] int64, of one codebook
    radix: Tensor  # [d] int64: Π of the levels before
    last: Tensor  # [d] float32, L - 1
    weights: Tensor  # [d] float64, the radix where float64 is exact

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
        self.kind, self.sizes = bound, tuple(levels)
        radix = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.int64), persistent=False)
        self.register_buffer("radix", torch.tensor(radix, dtype=torch.int64), persistent=False)
        self.register_buffer("last", torch.tensor(levels, dtype=torch.float32) - 1, persistent=False)
        self.register_buffer("weights", self.radix.double(), persistent=False)

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
        digits = self._digits(vectors)
        return self._values(digits), self.codes_of(digits)

    def codes_alone(self, vectors: Tensor) -> Tensor:
        """Codes of rounded values: `[M, D]` -> `[M, N]`."""
        return self.codes_of(self._digits(vectors))

    @torch.no_grad()
    def _digits(self, vectors: Tensor) -> Tensor:
        """The level of each channel, a whole number in a float: `[M, D]` -> `[M, N, d]`."""
        channels = vectors.unflatten(1, (self.num_codebooks, -1))
        if self.kind == "symmetric":
            return channels.clamp(-1, 1).add_(1).mul_(self.last / 2).add_(0.5).floor_()
        half = (self.levels // 2).to(vectors)
        return torch.minimum((channels * half).round() + half, self.last).clamp(min=0)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Values of codes: `[M, N]` -> `[M, D]`."""
        return self._values(self.digits_of(codes).float())

    def stage_scale(self, stage: int) -> Tensor:
        """`L^-stage` per channel: the cells of a stage are cut into L by the next."""
        return self.levels.repeat(self.num_codebooks).double().pow(-stage).float()

    def codes_of(self, digits: Tensor) -> Tensor:
        """Mixed-radix numbers: whole numbers in floats `[..., d]` -> int64 `[...]`."""
        if math.prod(self.sizes) <= EXACT:
            return (digits.double() @ self.weights).long()
        return (digits.long() * self.radix).sum(dim=-1)

    def digits_of(self, codes: Tensor) -> Tensor:
        """The digits of mixed-radix numbers: int64 `[...]` -> whole numbers in float64 `[..., d]`."""
        if math.prod(self.sizes) > EXACT:
            return (codes[..., None] // self.radix % self.levels).double()
        levels = self.levels.double()
        above = (codes[..., None].double() / self.weights).floor()
        return above - (above / levels).floor() * levels

    def _values(self, digits: Tensor) -> Tensor:
        if self.kind == "symmetric":  # 0 … L - 1 to -1 … 1, and k and L - 1 - k to exactly opposite values
            values = (2 * digits).sub_(self.last).div_(self.last)
        else:
            half = (self.levels // 2).to(digits)
            values = (digits - half) / half
        return values.flatten(1)


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

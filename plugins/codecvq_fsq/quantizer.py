"""Finite scalar quantization (arXiv:2309.15505): each channel is bounded and rounded to one of L levels.

The symmetric bound (default) reaches every level and is an odd function, for even L too:

    x = tanh z        k = floor((L - 1)(x + 1)/2 + 1/2) in 0 … L - 1        value = 2k/(L - 1) - 1

The original bound (appendix A.1 of the paper) shifts even L by half a level, so that 0 is a level: values
k/⌊L/2⌋ - 1. The paper's listing differs from this implementation in two points. It has tan in place of atanh;
only atanh maps 0 to 0. It scales the range by 1 - ε; 1 + ε also works for L = 2.

With `noise_dropout` p, a training vector gets, with probability p, uniform noise as wide as the distance of
two levels instead of rounding (arXiv:2411.19842 uses one half of each). The decoder then gets errors of the
same size everywhere between the levels, and the gradient of these vectors is exact. Codes do not change.

The code of a vector is the mixed-radix number Σ k_j Π_{i<j} L_i, with the first channel fastest. It is
computed from the integers k_j, not from the values, and is exact up to 2^62. Up to 2^52 it is computed in
float64, which is exact as well and several times faster: processors divide several floats at a time, but only
one int64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from codecvq import Quantizer
from codecvq.errors import OptionError

MAX_EXACT_CODE = 2**52  # up to here float64 represents every integer, and floor(a / b) of two is exact
EPSILON = 1e-3  # of the original bound: makes tanh reach the last level at a finite input


class FSQ(Quantizer):
    """Each channel is rounded to one of its `levels`. Each of `num_codebooks` codebooks has its own channels.

    Args: `levels` one L per channel of a codebook, with a projection if `len(levels) * num_codebooks` is not
    `dim`; `bound` "symmetric" or "original"; `noise_dropout` the probability that a training vector gets
    noise instead of rounding.
    """

    refines = True
    levels: Tensor  # [d] int64, of one codebook
    radix: Tensor  # [d] int64: product of the preceding levels
    last: Tensor  # [d] float32, L - 1
    middle: Tensor  # [d] float32, (L - 1)/2
    weights: Tensor  # [d] float64, the same as `radix`

    def __init__(
        self,
        dim: int,
        levels: Sequence[int],
        *,
        num_codebooks: int = 1,
        bound: Literal["symmetric", "original"] = "symmetric",
        noise_dropout: float = 0.0,
        estimator: str = "ste",
    ) -> None:
        _check_options(levels, num_codebooks, bound, noise_dropout)
        size = math.prod(levels)
        super().__init__(
            dim, [size] * num_codebooks, code_dim=len(levels) * num_codebooks, estimator=estimator
        )
        self.bound_kind, self.level_counts, self.noise_dropout = bound, tuple(levels), noise_dropout
        self.training_values_differ = noise_dropout > 0
        radix = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.int64), persistent=False)
        self.register_buffer("radix", torch.tensor(radix, dtype=torch.int64), persistent=False)
        self.register_buffer("last", torch.tensor(levels, dtype=torch.float32) - 1, persistent=False)
        self.register_buffer("middle", self.last / 2, persistent=False)
        self.register_buffer("weights", self.radix.double(), persistent=False)

    @property
    def code_levels(self) -> tuple[tuple[int, ...], ...]:
        """The digits of a code are the level indices of its channels."""
        return (self.level_counts,) * self.num_codebooks

    def bound(self, vectors: Tensor) -> Tensor:
        """Map channels to the range of the values: `[M, D]` -> `[M, D]`."""
        if self.bound_kind == "symmetric":
            return vectors.tanh()
        levels = self.levels.repeat(self.num_codebooks).to(vectors)  # [D]
        half_range = (levels - 1) * (1 + EPSILON) / 2
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        bounded = (vectors + (offset / half_range).atanh()).tanh() * half_range - offset
        return bounded / (levels // 2)

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Rounded values and codes: `[M, D]` -> `[M, D]`, `[M, N]`."""
        digits = self._digits(vectors)
        values, codes = self._values(digits), self.codes_of(digits)
        return (self._add_noise(vectors, values) if self.training and self.noise_dropout else values), codes

    def codes_only(self, vectors: Tensor) -> Tensor:
        """Codes of rounded values: `[M, D]` -> `[M, N]`."""
        return self.codes_of(self._digits(vectors))

    @torch.no_grad()
    def _digits(self, vectors: Tensor) -> Tensor:
        """The level index of each channel, an integer stored as float: `[M, D]` -> `[M, N, d]`."""
        channels = vectors.unflatten(1, (self.num_codebooks, -1))
        if self.bound_kind == "symmetric":
            return torch.addcmul(self.middle + 0.5, channels.clamp(-1, 1), self.middle).floor_()
        half = (self.levels // 2).to(vectors)
        return torch.minimum((channels * half).round() + half, self.last).clamp(min=0)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Values of codes: `[M, N]` -> `[M, D]`."""
        return self._values(self.digits_of(codes).float())

    def stage_scale(self, stage: int) -> Tensor:
        """`L^-stage` per channel: each stage divides the cells of the previous one into L."""
        return self.levels.repeat(self.num_codebooks).double().pow(-stage).float()

    def codes_of(self, digits: Tensor) -> Tensor:
        """Mixed-radix numbers of digits: integers stored as float `[..., d]` -> int64 `[...]`."""
        if math.prod(self.level_counts) <= MAX_EXACT_CODE:
            return (digits.double() @ self.weights).long()
        return (digits.long() * self.radix).sum(dim=-1)

    def digits_of(self, codes: Tensor) -> Tensor:
        """Digits of mixed-radix numbers: int64 `[...]` -> integers stored as float64 `[..., d]`."""
        if math.prod(self.level_counts) > MAX_EXACT_CODE:
            return (codes[..., None] // self.radix % self.levels).double()
        levels = self.levels.double()
        quotient = (codes[..., None].double() / self.weights).floor()
        return quotient - (quotient / levels).floor() * levels

    @torch.no_grad()
    def _add_noise(self, vectors: Tensor, values: Tensor) -> Tensor:
        """Replace random rows of values by vector plus noise, within the range of the levels.

        Shapes: `[M, D]` -> `[M, D]`.
        """
        top = self._values(self.last.expand(1, self.num_codebooks, -1))  # [1, D]; the lowest level is at -1
        step = (top + 1) / self.last.repeat(self.num_codebooks)
        device = vectors.device if self.generator is None else self.generator.device
        draws = torch.rand(len(vectors), 1 + vectors.shape[1], generator=self.generator, device=device)
        chosen, noise = draws.to(vectors).split([1, vectors.shape[1]], dim=1)
        noisy = torch.minimum((vectors + (noise - 0.5) * step).clamp(min=-1.0), top)
        return torch.where(chosen < self.noise_dropout, noisy, values)

    def _values(self, digits: Tensor) -> Tensor:
        if self.bound_kind == "symmetric":  # 0 … L - 1 to -1 … 1; k and L - 1 - k give opposite values
            values = digits.sub(self.middle).div_(self.middle)
        else:
            half = (self.levels // 2).to(digits)
            values = (digits - half) / half
        return values.flatten(1)


def _check_options(levels: Sequence[int], num_codebooks: int, bound: str, noise_dropout: float) -> None:
    if isinstance(levels, (str, int)) or not levels or any(not isinstance(n, int) or n < 2 for n in levels):
        raise OptionError(
            f"fsq: levels is {levels!r}; it must be a list of integers of at least 2, such as [8, 5, 5, 5]"
        )
    if math.prod(levels) > 2**62:
        raise OptionError(
            f"fsq: levels {list(levels)} give a codebook of size {math.prod(levels)}, more than 2^62. Use "
            "num_codebooks."
        )
    if not isinstance(num_codebooks, int) or num_codebooks < 1:
        raise OptionError(f"fsq: num_codebooks is {num_codebooks!r}; it must be an integer of at least 1")
    if bound not in ("symmetric", "original"):
        raise OptionError(f"fsq: bound is {bound!r}; it must be symmetric or original")
    if not 0.0 <= noise_dropout <= 1.0:
        raise OptionError(f"fsq: noise_dropout is {noise_dropout}; it must be a probability from 0 to 1")

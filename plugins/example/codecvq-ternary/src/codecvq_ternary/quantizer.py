"""Ternary quantization: every channel of a vector is -1, 0 or 1.

    x = 3/2 tanh(2z/3)        t = floor(x + 1/2) in {-1, 0, 1}        code = Σ_j (t_j + 1) 3^j

The bound keeps x within ±3/2, where the three cells have equal width 1, and has slope 1 at 0. The residual x
- t lies in [-1/2, 1/2], the same cell three times finer: 3 (x - t) is within ±3/2 again. So the residual
form, whose stage n works on the grid 3^-n, computes the digits of x in balanced ternary. After n stages it is
within 3^-(n-1) / 2 of x. (The bound holds for x, not for z.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from codecvq import Quantizer, Terms
from codecvq.errors import OptionError

LIMIT = 1.5  # bound of |x|
MAX_TRITS = 39  # 3^39 codes still fit into int64


class Ternary(Quantizer):
    """Each of `trits` channels is -1, 0 or 1.

    Args: `sparsity_weight` is the weight of the loss mean |x|. It makes zeros frequent, and an entropy coder
    then needs fewer bits.
    """

    refines = True
    powers: Tensor  # [trits] int64

    def __init__(
        self, dim: int, trits: int = 8, *, sparsity_weight: float = 0.0, estimator: str = "ste"
    ) -> None:
        if not isinstance(trits, int) or not 1 <= trits <= MAX_TRITS:
            raise OptionError(f"ternary: trits is {trits!r}; it must be an integer from 1 to {MAX_TRITS}")
        super().__init__(dim, [3**trits], code_dim=trits, estimator=estimator)
        self.sparsity_weight = sparsity_weight
        self.register_buffer("powers", 3 ** torch.arange(trits), persistent=False)

    @property
    def code_levels(self) -> tuple[tuple[int, ...], ...]:
        """The digits of a code are the values of its channels."""
        return ((3,) * len(self.powers),)

    def bound(self, vectors: Tensor) -> Tensor:
        """x: `[M, D]` -> `[M, D]` within ±3/2."""
        return LIMIT * (vectors / LIMIT).tanh()

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Trits and codes: `[M, D]` -> `[M, D]`, `[M, 1]`."""
        trits = (vectors + 0.5).floor().clamp(-1, 1)  # tanh may round to ±1, and x to ±3/2
        codes = ((trits.long() + 1) * self.powers).sum(dim=1, keepdim=True)
        return trits, codes

    def dequantize(self, codes: Tensor) -> Tensor:
        """Trits of codes: `[M, 1]` -> `[M, D]`."""
        return (codes // self.powers % 3 - 1).float()

    def stage_scale(self, stage: int) -> float:
        """3^-stage: each stage divides the cells of the previous one into three."""
        return 3.0**-stage

    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        """The sparsity loss if it has a weight, and the share of zeros as a metric."""
        zeros = (values == 0).float().mean()
        if not self.sparsity_weight:
            return Terms({}, {"zeros": zeros})
        return Terms({"sparsity": self.sparsity_weight * vectors.abs().mean()}, {"zeros": zeros})

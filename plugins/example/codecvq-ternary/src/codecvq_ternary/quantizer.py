"""Ternary quantization: every channel of a vector is -1, 0 or 1.

    x = 3/2 tanh(2z/3)        t = floor(x + 1/2) in {-1, 0, 1}        code = Σ_j (t_j + 1) 3^j

The bound keeps x within ±3/2, where the three cells have equal width 1, and has slope 1 at 0. What is left,
x - t, lies in [-1/2, 1/2], the same cell three times finer: 3 (x - t) is a number within ±3/2 again. So the
residual form, whose stage n works on the grid 3^-n, finds the digits of x in balanced ternary, and after n
stages is within 3^-(n-1) / 2 of it: of x, not of z.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codecvq import Quantizer, Terms
from codecvq.errors import OptionError

LIMIT = 1.5  # of x
MOST_TRITS = 39  # 3^39 codes still fit into int64


class Ternary(Quantizer):
    """Each of `trits` channels -1, 0 or 1.

    Args: `sparsity_weight` weights the mean |x|, which makes zeros frequent, and so the codes cheap for an
    entropy coder.
    """

    refines = True
    powers: Tensor  # [trits] int64

    def __init__(
        self, dim: int, trits: int = 8, *, sparsity_weight: float = 0.0, estimator: str = "ste"
    ) -> None:
        if not isinstance(trits, int) or not 1 <= trits <= MOST_TRITS:
            raise OptionError(f"ternary: trits is {trits!r}; needed is a whole number from 1 to {MOST_TRITS}")
        super().__init__(dim, [3**trits], code_dim=trits, estimator=estimator)
        self.sparsity_weight = sparsity_weight
        self.register_buffer("powers", 3 ** torch.arange(trits), persistent=False)

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
        """3^-stage: the cells of a stage are cut into three by the next."""
        return 3.0**-stage

    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        """The sparsity loss where it has a weight, and the share of zeros."""
        zeros = (values == 0).float().mean()
        if not self.sparsity_weight:
            return Terms({}, {"zeros": zeros})
        return Terms({"sparsity": self.sparsity_weight * vectors.abs().mean()}, {"zeros": zeros})

"""`ConditionalQuantizer`: a residual stage that depends on the sum of the stages before it, as in QINCo
(arXiv:2401.14732).
"""

from __future__ import annotations

import torch
from torch import Tensor

from codecvq.quantizer.author import Quantizer
from codecvq.quantizer.engine import Context


class ConditionalQuantizer(Quantizer):
    """Base class of quantizers whose codebook depends on what the stages before it have coded.

    An author writes `quantize_given` and `dequantize_given` in place of `quantize` and `dequantize`. In a
    residual form `partial_sum` is the sum of the values of all stages before, in the space of the latents
    (`[M, dim]`, also where the stage quantizes in `code_dim` channels), and zero in the first stage; plain or
    grouped it is always zero. Prefixes decode and quantizer dropout works as for every residual stage.
    """

    uses_partial_sum = True

    def quantize_given(self, vectors: Tensor, partial_sum: Tensor) -> tuple[Tensor, Tensor]:
        """Values and codes: `[M, D]` after `bound`, `partial_sum` `[M, dim]` -> `[M, D]`, int64 `[M, N]`."""
        raise NotImplementedError(f"{type(self).__name__} must define quantize_given(vectors, partial_sum)")

    def dequantize_given(self, codes: Tensor, partial_sum: Tensor) -> Tensor:
        """Values of codes: int64 `[M, N]`, `partial_sum` `[M, dim]` -> `[M, D]`, the same values that
        `quantize_given` gives with these codes and this sum.
        """
        raise NotImplementedError(f"{type(self).__name__} must define dequantize_given(codes, partial_sum)")

    def candidates_given(self, vectors: Tensor, partial_sum: Tensor, count: int) -> Tensor:
        """`candidates` where a sum is known: `[M, D]`, `[M, dim]` -> int64 `[M, count]`, best first."""
        raise NotImplementedError(f"{type(self).__name__} lists no candidates: it has no beam search")

    def quantize_with_context(self, vectors: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """`quantize_given` with the sum of the context."""
        return self.quantize_given(vectors, self._partial_sum(vectors, context))

    def codes_with_context(self, vectors: Tensor, context: Context) -> Tensor:
        """The codes of `quantize_given`."""
        return self.quantize_with_context(vectors, context)[1]

    def dequantize_with_context(self, codes: Tensor, context: Context) -> Tensor:
        """`dequantize_given` with the sum of the context."""
        return self.dequantize_given(codes, self._partial_sum(codes, context))

    def candidates_with_context(self, vectors: Tensor, count: int, context: Context) -> Tensor:
        """`candidates_given` with the sum of the context."""
        return self.candidates_given(vectors, self._partial_sum(vectors, context), count)

    @property
    def lists_candidates(self) -> bool:
        """Whether a residual form can search a beam."""
        return type(self).candidates_given is not ConditionalQuantizer.candidates_given

    def _partial_sum(self, rows: Tensor, context: Context) -> Tensor:
        if context.partial_sum is not None:
            return context.partial_sum
        return torch.zeros(len(rows), self.dim, device=rows.device)

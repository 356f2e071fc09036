"""`ConditionalQuantizer`, a residual stage that depends on the sum of the earlier stages.

QINCo (arXiv:2401.14732) is such a quantizer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codecvq.quantizer.author import Quantizer
from codecvq.quantizer.engine import Context


class ConditionalQuantizer(Quantizer):
    """Base class of quantizers whose codebook depends on the partial sum of earlier residual stages.

    Subclasses implement `quantize_given` and `dequantize_given` instead of `quantize` and `dequantize`, and
    optionally `candidates_given` for beam search.

    In a residual stack, `partial_sum` is the sum of the values of all earlier stages. It is in the space of
    the latents, `[M, dim]`, even if the stage quantizes in `code_dim` channels. It is zero in the first
    stage, and always zero outside of residual stacks. Any number of first codebooks can be decoded, and
    quantizer dropout works as in all residual stages.
    """

    uses_partial_sum = True

    def quantize_given(self, vectors: Tensor, partial_sum: Tensor) -> tuple[Tensor, Tensor]:
        """Quantize vectors given a partial sum.

        Args:
            vectors: `[M, D]`, after `bound`.
            partial_sum: `[M, dim]`.

        Returns values `[M, D]` and codes int64 `[M, N]`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define quantize_given(vectors, partial_sum)")

    def dequantize_given(self, codes: Tensor, partial_sum: Tensor) -> Tensor:
        """Look up the values of codes given a partial sum: int64 `[M, N]`, `[M, dim]` -> `[M, D]`.

        The values must equal those that `quantize_given` returns together with these codes and this sum.
        """
        raise NotImplementedError(f"{type(self).__name__} must define dequantize_given(codes, partial_sum)")

    def candidates_given(self, vectors: Tensor, partial_sum: Tensor, count: int) -> Tensor:
        """Return the best codes given a partial sum, best first: `[M, D]`, `[M, dim]` -> `[M, count]`."""
        raise NotImplementedError(f"{type(self).__name__} lists no candidates, so it has no beam search")

    def quantize_with_context(self, vectors: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Call `quantize_given` with the partial sum of the context."""
        return self.quantize_given(vectors, self._partial_sum(vectors, context))

    def codes_with_context(self, vectors: Tensor, context: Context) -> Tensor:
        """Return the codes of `quantize_given`."""
        return self.quantize_with_context(vectors, context)[1]

    def dequantize_with_context(self, codes: Tensor, context: Context) -> Tensor:
        """Call `dequantize_given` with the partial sum."""
        return self.dequantize_given(codes, self._partial_sum(codes, context))

    def candidates_with_context(self, vectors: Tensor, count: int, context: Context) -> Tensor:
        """Call `candidates_given` with the partial sum of the context."""
        return self.candidates_given(vectors, self._partial_sum(vectors, context), count)

    @property
    def lists_candidates(self) -> bool:
        """Whether the quantizer implements `candidates_given`, so that beam search works."""
        return type(self).candidates_given is not ConditionalQuantizer.candidates_given

    def _partial_sum(self, rows: Tensor, context: Context) -> Tensor:
        if context.partial_sum is not None:
            return context.partial_sum
        return torch.zeros(len(rows), self.dim, device=rows.device)

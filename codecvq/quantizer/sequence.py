"""`SequenceQuantizer`, a quantizer over whole sequences, in which frames depend on neighboring frames."""

from __future__ import annotations

from torch import Tensor

from codecvq.quantizer.author import Quantizer
from codecvq.quantizer.engine import Context


class SequenceQuantizer(Quantizer):
    """Base class of quantizers that depend on several frames, such as predictive or convolutional ones.

    Subclasses implement `quantize_items` and `dequantize_items` instead of `quantize` and `dequantize`. They
    declare `reach`: on how many frames before and after a frame its code and value depend. Streaming and the
    conformance checks use `reach`. `bound`, `terms` and `update` work as in `Quantizer`, on vectors of the
    valid frames.

    Items are zero where the mask is False, and results there are ignored. With quantizer dropout, a stage
    gets all batch items. Items in which it is not active have no valid frame.
    """

    def quantize_items(self, latents: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Quantize batch items.

        Args:
            latents: float32 `[B, D, T]`, after `bound`. B and T may be 0.
            mask: Padding mask, bool `[B, T]`.

        Returns values `[B, D, T]` and codes int64 `[B, N, T]`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define quantize_items(latents, mask)")

    def dequantize_items(self, codes: Tensor, mask: Tensor) -> Tensor:
        """Look up the values of codes: int64 `[B, N, T]`, mask bool `[B, T]` -> `[B, D, T]`.

        The values must equal those that `quantize_items` returns together with these codes.
        """
        raise NotImplementedError(f"{type(self).__name__} must define dequantize_items(codes, mask)")

    def quantize_with_context(self, vectors: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Call `quantize_items` on vectors `[M, D]` -> `[M, D]`, `[M, N]`."""
        values, codes = self.quantize_items(*context.frames.to_items(vectors))
        return context.frames.to_vectors(values), context.frames.to_vectors(codes)

    def codes_with_context(self, vectors: Tensor, context: Context) -> Tensor:
        """Return the codes of `quantize_items`: `[M, D]` -> `[M, N]`."""
        return self.quantize_with_context(vectors, context)[1]

    def dequantize_with_context(self, codes: Tensor, context: Context) -> Tensor:
        """Call `dequantize_items` on codes `[M, N]` -> `[M, D]`."""
        return context.frames.to_vectors(self.dequantize_items(*context.frames.to_items(codes)))

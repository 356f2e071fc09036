"""`SequenceQuantizer`: a quantizer over whole items, whose codes and values depend on neighbouring frames."""

from __future__ import annotations

from torch import Tensor

from codecvq.quantizer.author import Quantizer
from codecvq.quantizer.engine import Context


class SequenceQuantizer(Quantizer):
    """Base class of quantizers that look along time: delta, predictive, with a convolutional context.

    An author writes `quantize_items` and `dequantize_items` in place of `quantize` and `dequantize`, and
    declares `reach`, how many frames before and after a frame its code and its value depend on: streams and
    the conformance kit go by it. Everything else is as for `Quantizer`: `bound`, `terms` and `update` get
    vectors of the real frames.

    An item is zero where the mask is False, and what is returned there is ignored. In a batch with quantizer
    dropout a stage gets all items, those without it with no real frame.
    """

    def quantize_items(self, latents: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Values and codes: float32 `[B, D, T]` after `bound`, mask bool `[B, T]` -> `[B, D, T]` and int64
        `[B, N, T]`. B and T may be 0.
        """
        raise NotImplementedError(f"{type(self).__name__} must define quantize_items(latents, mask)")

    def dequantize_items(self, codes: Tensor, mask: Tensor) -> Tensor:
        """Values of codes: int64 `[B, N, T]`, mask bool `[B, T]` -> `[B, D, T]`, the same values that
        `quantize_items` gives with these codes.
        """
        raise NotImplementedError(f"{type(self).__name__} must define dequantize_items(codes, mask)")

    def quantize_with_context(self, vectors: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """`quantize_items` for vectors `[M, D]` -> `[M, D]`, `[M, N]`."""
        values, codes = self.quantize_items(*context.frames.to_items(vectors))
        return context.frames.to_vectors(values), context.frames.to_vectors(codes)

    def codes_with_context(self, vectors: Tensor, context: Context) -> Tensor:
        """The codes of `quantize_items`: `[M, D]` -> `[M, N]`."""
        return self.quantize_with_context(vectors, context)[1]

    def dequantize_with_context(self, codes: Tensor, context: Context) -> Tensor:
        """`dequantize_items` for codes `[M, N]` -> `[M, D]`."""
        return context.frames.to_vectors(self.dequantize_items(*context.frames.to_items(codes)))

"""Correct and faulty sequence quantizers. A faulty one differs in few lines from the correct one above it."""

from __future__ import annotations

import torch
from faulty_quantizers import CorrectQuantizer
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq import Terms
from codecvq.api.reach import Reach
from codecvq.quantizer import SequenceQuantizer, nearest_codes


class Delta(SequenceQuantizer):
    """Quantizes the difference of each frame from the previous decoded frame."""

    reach = Reach(None, 0)

    def __init__(self, dim: int) -> None:
        super().__init__(dim, [16])
        self.codebook = nn.Parameter(torch.randn(16, dim))

    def quantize_items(self, latents: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        batch, _, frames = latents.shape
        codes = torch.zeros(batch, 1, frames, dtype=torch.int64)
        before = torch.zeros(batch, self.code_dim)
        with torch.no_grad():
            for t in range(frames):
                codes[:, 0, t] = nearest_codes(latents[:, :, t] - before, self.codebook)
                before = before + self.codebook[codes[:, 0, t]] * mask[:, t, None]
        return self.dequantize_items(codes, mask), codes

    def dequantize_items(self, codes: Tensor, mask: Tensor) -> Tensor:
        steps = self.codebook[codes[:, 0]] * mask[:, :, None]  # [B, T, D]
        return self.summed(steps).transpose(1, 2)

    def summed(self, steps: Tensor) -> Tensor:
        return steps.cumsum(dim=1)

    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        return Terms({"codebook": (values - vectors.detach()).square().mean()})


class DeltaWithoutReach(Delta):
    reach = Reach(0, 0)


class DeltaAcrossItems(Delta):
    """Continues from the previous item, as if the batch were one long item."""

    def quantize_items(self, latents: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        def long(items: Tensor) -> Tensor:
            return items.transpose(0, 1).flatten(1)[None]

        if not latents.numel():
            return super().quantize_items(latents, mask)
        values, codes = super().quantize_items(long(latents), mask.flatten()[None])
        return (each[0].unflatten(1, mask.shape).transpose(0, 1) for each in (values, codes))  # type: ignore[return-value]


class DeltaMixesItems(Delta):
    """Adds a tenth of the previous item."""

    def quantize_items(self, latents: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return super().quantize_items(latents + 0.1 * latents.roll(1, dims=0), mask)


class DeltaOverVectors(CorrectQuantizer):
    """Quantizes differences of consecutive vectors, also across items."""

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        codes = nearest_codes(vectors.diff(dim=0, prepend=vectors[:1] * 0), self.codebook)[:, None]
        return self.dequantize(codes), codes

    def dequantize(self, codes: Tensor) -> Tensor:
        return super().dequantize(codes).cumsum(dim=0)


class Smooths(SequenceQuantizer):
    """Quantizes the mean of a frame and the next one."""

    reach = Reach(0, 1)

    def __init__(self, dim: int) -> None:
        super().__init__(dim, [16])
        self.codebook = nn.Parameter(torch.randn(16, dim))

    def quantize_items(self, latents: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        after = F.pad(latents, (0, 1))[:, :, 1:]
        codes = nearest_codes(((latents + after) / 2).transpose(1, 2).flatten(0, 1), self.codebook)
        codes = codes.view(latents.shape[0], 1, latents.shape[2])
        return self.dequantize_items(codes, mask), codes

    def dequantize_items(self, codes: Tensor, mask: Tensor) -> Tensor:
        return self.codebook[codes[:, 0]].transpose(1, 2)

    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        return Terms({"codebook": (values - vectors.detach()).square().mean()})


class SmoothsBeyondItsReach(Smooths):
    def quantize_items(self, latents: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return super().quantize_items(latents + F.pad(latents, (0, 2))[:, :, 2:], mask)


class Halves(Smooths):
    """One code for two frames: the codeword nearest to their mean."""

    reach = Reach(1, 1)

    @property
    def strides(self) -> tuple[int, ...]:
        return (2,)

    def quantize_items(self, latents: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        batch, _, frames = latents.shape
        even, ones = (F.pad(x, (0, frames % 2)) for x in (latents, mask[:, None].float()))
        sums, counts = (x.unflatten(2, (-1, 2)).sum(dim=3) for x in (even, ones))
        means_per_item = -(-frames // 2)
        means = (sums / counts.clamp(min=1)).transpose(1, 2).flatten(0, 1)
        codes = nearest_codes(means, self.codebook).view(batch, 1, means_per_item)
        codes = codes.repeat_interleave(2, dim=2)[:, :, :frames]
        return self.dequantize_items(codes, mask), codes


class HalvesInNameOnly(Smooths):
    """Declares one code for two frames, but each frame has its own."""

    reach = Reach(1, 1)

    @property
    def strides(self) -> tuple[int, ...]:
        return (2,)

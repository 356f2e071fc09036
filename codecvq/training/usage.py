"""Recent usage and perplexity of each codebook in a training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from codecvq.code_entropy import entropy_nats
from codecvq.quantizer import Quantized

DECAY = 0.98  # per step; a code used once counts as unused after about 300 steps
USED_THRESHOLD = DECAY**300
MAX_CODEBOOK_SIZE = 2**20  # larger codebooks are not counted: a training has too few vectors to fill them


def active_codes(quantized: Quantized) -> Tensor:
    """Codes `[B, N, T]` with -1 for codebooks disabled by quantizer dropout, whose 0 is a placeholder."""
    if quantized.active is None:
        return quantized.codes
    return quantized.codes.masked_fill(~quantized.active, -1)


class CodebookUsage:
    """Decaying counts of the codes of each codebook, on the device."""

    def __init__(self, codebook_sizes: tuple[int, ...], device: torch.device) -> None:
        self.counts = {
            n: torch.zeros(size, device=device)
            for n, size in enumerate(codebook_sizes)
            if size <= MAX_CODEBOOK_SIZE
        }

    @torch.no_grad()
    def add(self, codes: Tensor, counts: Tensor) -> None:
        """Count the nonnegative codes `[B, N, T]` of a step if the step `counts` (0-d bool)."""
        factor = torch.where(counts, DECAY, 1.0)
        for n, used in self.counts.items():
            used.mul_(factor)
            if n < codes.shape[1]:
                column = codes[:, n].flatten()
                used.index_add_(0, column.clamp(min=0), ((column >= 0) & counts).float())

    def scalars(self) -> dict[str, float]:
        """Usage (fraction of recently used codes) and perplexity: for each codebook, and their means.

        Empty before the first step.
        """
        if not self.counts:
            return {}
        rows = torch.stack(
            [_codebook_scalars(counts) for counts in self.counts.values()]
        ).tolist()  # one transfer
        scalars: dict[str, float] = {}
        for n, (total, usage, perplexity) in zip(self.counts, rows, strict=True):
            if total > 0:
                scalars |= {f"codebook/usage/{n}": usage, f"codebook/perplexity/{n}": perplexity}
        for name in ("usage", "perplexity"):
            each = [value for key, value in scalars.items() if key.startswith(f"codebook/{name}/")]
            if each:
                scalars[f"codebook/{name}"] = sum(each) / len(each)
        return scalars

    def load(self, counts: Mapping[int, Tensor]) -> None:
        """Load the counts of a checkpoint."""
        for n, used in self.counts.items():
            used.copy_(counts[n])


def _codebook_scalars(counts: Tensor) -> Tensor:
    """Total, usage and perplexity of counts `[K]`: `[3]`."""
    return torch.stack([counts.sum(), (counts > USED_THRESHOLD).float().mean(), entropy_nats(counts).exp()])

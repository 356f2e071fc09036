"""How much of each codebook a training uses lately."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from codecvq.quantizer.interface import Quantized

DECAY = 0.98  # a step; what was chosen once is forgotten after some 300 steps
SEEN = DECAY**300
LARGEST = 2**20  # codebooks beyond are not counted: no training sees enough vectors to fill them


def chosen(quantized: Quantized) -> Tensor:
    """The codes `[B, N, T]`, -1 where quantizer dropout left a codebook out: 0 there was nobody's choice."""
    if quantized.kept is None:
        return quantized.codes
    return quantized.codes.masked_fill(~quantized.kept, -1)


class CodebookUse:
    """Decaying counts of the codes chosen, a codebook each."""

    def __init__(self, codebook_sizes: tuple[int, ...]) -> None:
        self.counts = {n: torch.zeros(size) for n, size in enumerate(codebook_sizes) if size <= LARGEST}

    def add(self, codes: Tensor) -> None:
        """Count the codes `[B, N, T]` of a step, but those below 0: `chosen` has made them so."""
        flat = codes.detach().cpu().transpose(0, 1).flatten(1)  # [N, B·T]
        for n, counts in self.counts.items():
            counts.mul_(DECAY)
            if n < len(flat):
                counts += torch.bincount(flat[n][flat[n] >= 0], minlength=len(counts))

    def scalars(self) -> dict[str, float]:
        """Usage (share of a codebook chosen lately) and perplexity, means over codebooks and of each; empty
        before the first step.
        """
        found: dict[str, float] = {}
        for n, counts in self.counts.items():
            total = float(counts.sum())
            if total == 0:
                continue
            found[f"codebook/usage/{n}"] = float((counts > SEEN).sum()) / len(counts)
            found[f"codebook/perplexity/{n}"] = math.exp(float(torch.special.entr(counts / total).sum()))
        for name in ("usage", "perplexity"):
            each = [value for key, value in found.items() if key.startswith(f"codebook/{name}/")]
            if each:
                found[f"codebook/{name}"] = sum(each) / len(each)
        return found

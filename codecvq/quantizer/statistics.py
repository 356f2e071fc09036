"""How much of a codebook a batch of codes uses."""

from __future__ import annotations

import torch
from torch import Tensor


def code_metrics(codes: Tensor, codebook_sizes: tuple[int, ...]) -> dict[str, Tensor]:
    """Perplexity (exp of the entropy of the codes) and usage (share of the codebook seen) of a batch.

    Shapes: codes `[M, n]` -> 0-d tensors `perplexity` and `usage`, means over the n codebooks, and
    `perplexity/i`, `usage/i` for each where there are several. Counting sorts the M codes instead of filling
    a histogram of K, so K may be 2^60, and no shape depends on the data.
    """
    ordered = codes.sort(dim=0).values  # [M, n]
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    runs = starts.cumsum(dim=0) - 1  # [M, n]: which distinct code a row holds
    counts = torch.zeros(codes.shape, device=codes.device).scatter_add_(
        0, runs, torch.ones(codes.shape, device=codes.device)
    )
    shares = counts / max(1, codes.shape[0])
    perplexity = torch.special.entr(shares).sum(dim=0).exp()  # [n]
    sizes = torch.tensor(codebook_sizes[: codes.shape[1]], dtype=torch.float32, device=codes.device)
    usage = starts.sum(dim=0) / sizes  # [n]
    metrics = {"perplexity": perplexity.mean(), "usage": usage.mean()}
    if codes.shape[1] > 1:
        metrics |= {f"perplexity/{i}": value for i, value in enumerate(perplexity.unbind())}
        metrics |= {f"usage/{i}": value for i, value in enumerate(usage.unbind())}
    return metrics

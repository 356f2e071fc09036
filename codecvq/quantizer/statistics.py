"""How much of a codebook a batch of codes uses."""

from __future__ import annotations

import torch
from torch import Tensor

# A histogram of the codebook costs less than sorting the codes while it has at most so many bins, or so many
# bins a code.
SMALL, HISTOGRAM = 4096, 8


def code_metrics(codes: Tensor, codebook_sizes: tuple[int, ...]) -> dict[str, Tensor]:
    """Perplexity (exp of the entropy of the codes) and usage (share of the codebook seen) of a batch.

    Shapes: codes `[M, n]` -> 0-d tensors `perplexity` and `usage`, means over the n codebooks, and
    `perplexity/i`, `usage/i` for each where there are several. K may be 2^60, and no shape depends on the
    values of the codes.
    """
    rows, count = codes.shape
    sizes = codebook_sizes[:count]
    by_histogram = max(sizes) <= max(SMALL, HISTOGRAM * rows)
    entropy, different = _by_histogram(codes, max(sizes)) if by_histogram else _by_sorting(codes)
    perplexity = entropy.exp()
    if count == 1:
        return {"perplexity": perplexity[0], "usage": different[0] / sizes[0]}
    usage = different / torch.tensor(sizes, dtype=torch.float32, device=codes.device)  # [n]
    metrics = {"perplexity": perplexity.mean(), "usage": usage.mean()}
    metrics |= {f"perplexity/{i}": value for i, value in enumerate(perplexity.unbind())}
    return metrics | {f"usage/{i}": value for i, value in enumerate(usage.unbind())}


def _by_histogram(codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Entropy of each column, nats, and how many different codes it has: `[M, n]` -> `[n]`, `[n]`."""
    columns = codes.T.clamp(0, size - 1).contiguous()  # [n, M]; a wrong code is for the checks to tell
    bins = torch.zeros(codes.shape[1], size, device=codes.device)
    bins.scatter_add_(1, columns, torch.ones(columns.shape, device=codes.device))
    return torch.special.entr(bins / max(len(codes), 1)).sum(dim=1), bins.count_nonzero(dim=1)


def _by_sorting(codes: Tensor) -> tuple[Tensor, Tensor]:
    """The same for any codebook size: equal codes are neighbours once sorted."""
    ordered = codes.sort(dim=0).values  # [M, n]
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    runs = starts.cumsum(dim=0) - 1  # [M, n]: which distinct code a row holds
    ones = torch.ones(codes.shape, device=codes.device)
    counts = torch.zeros_like(ones).scatter_add_(0, runs, ones)  # of the first, second … code, then 0
    return torch.special.entr(counts / max(len(codes), 1)).sum(dim=0), starts.sum(dim=0)

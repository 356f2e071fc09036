"""Perplexity and usage of codebooks in a batch of codes."""

from __future__ import annotations

import torch
from torch import Tensor

from codecvq.code_entropy import entropy_nats
from codecvq.transfer import to_device

# A histogram of the codebook is faster than sorting the codes if it has at most this number of bins, or at
# most this number of bins per code.
MAX_SMALL_HISTOGRAM, MAX_BINS_PER_CODE = 4096, 8


def code_metrics(
    codes: Tensor, codebook_sizes: tuple[int, ...], active: Tensor | None = None
) -> dict[str, Tensor]:
    """Return perplexity (exp of the entropy of the codes) and usage (fraction of the codebook in use).

    Shapes: codes `[M, n]`, `active` bool `[M, n]`, False at codes to ignore (None: count all) -> 0-d tensors
    `perplexity` and `usage`, means over the n codebooks. With several codebooks also `perplexity/i` and
    `usage/i` for each. K may be 2^60; no shape depends on the values of the codes.
    """
    rows, count = codes.shape
    sizes = codebook_sizes[:count]
    by_histogram = max(sizes) <= max(MAX_SMALL_HISTOGRAM, MAX_BINS_PER_CODE * rows)
    # [n, bins]
    counts = _by_histogram(codes, max(sizes), active) if by_histogram else _by_sorting(codes, active)
    perplexity, different = entropy_nats(counts).exp(), counts.count_nonzero(dim=1)
    if count == 1:
        return {"perplexity": perplexity[0], "usage": different[0] / sizes[0]}
    usage = different / to_device(torch.tensor(sizes, dtype=torch.float32), codes.device)  # [n]
    metrics = {"perplexity": perplexity.mean(), "usage": usage.mean()}
    metrics |= {f"perplexity/{i}": value for i, value in enumerate(perplexity.unbind())}
    return metrics | {f"usage/{i}": value for i, value in enumerate(usage.unbind())}


def _by_histogram(codes: Tensor, size: int, active: Tensor | None) -> Tensor:
    """Count each code in each column: `[M, n]` -> `[n, size]`."""
    columns = codes.T.clamp(0, size - 1).contiguous()  # [n, M]; checks elsewhere report codes out of range
    bins = torch.zeros(codes.shape[1], size, device=codes.device)
    return bins.scatter_add_(1, columns, _weights(columns, None if active is None else active.T))


def _by_sorting(codes: Tensor, active: Tensor | None) -> Tensor:
    """Count the codes that occur, for any codebook size; sorting puts equal codes next to each other."""
    ordered, places = codes.sort(dim=0)  # [M, n]
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    runs = starts.cumsum(dim=0) - 1  # [M, n]: index of the distinct code
    weights = _weights(codes, None if active is None else active.gather(0, places))
    return torch.zeros_like(weights).scatter_add_(0, runs, weights).T  # counts of the distinct codes, then 0


def _weights(codes: Tensor, active: Tensor | None) -> Tensor:
    """Return 1 for each active code and 0 for the others."""
    return torch.ones(codes.shape, device=codes.device) if active is None else active.float()

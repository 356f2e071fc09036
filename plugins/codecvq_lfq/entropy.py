"""Entropies of soft sign codes, exact: no clamp, no table of all codes.

With logits t_k the bits of a vector are independent, P(bit k = 1) = p_k = sigmoid(t_k). So the entropy of one
vector's code is a sum over bits, O(d), and the mean distribution over all 2^d codes is A Bᵀ / M, where A and
B hold each vector's distribution over the codes of the lower and of the upper half of the bits. Vectors lie
along the last axis, so that every step runs over long rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

EXACT_BITS = 20  # up to here the distribution over all codes is made: 2^20 floats
TINY = 1e-37  # a probability below adds nothing to an entropy, but log 0 would make its gradient NaN

#: the sum of a tensor over the processes of a training, or the tensor itself
Total = Callable[[Tensor], Tensor]


def sample_entropy(logits: Tensor, total: Total) -> Tensor:
    """Mean over vectors of the entropy of their code, nats: `[d, M]` -> 0-d. H = Σ softplus(t) - t p."""
    entropies = F.softplus(logits) - logits * logits.sigmoid()
    return total(entropies.sum()) / _count(logits, total)


def codebook_entropy(logits: Tensor, total: Total) -> Tensor:
    """Entropy of the mean distribution over codes, nats: `[d, M]` -> 0-d.

    Beyond EXACT_BITS bits it is the sum of the entropies of the bits, which is an upper bound.
    """
    bits = len(logits)
    if bits > EXACT_BITS:
        mean = total(logits.sigmoid().sum(dim=1)) / _count(logits, total)
        return _entropy(mean) + _entropy(1 - mean)
    half = bits // 2
    joint = _codes_of(logits[:half]) @ _codes_of(logits[half:]).T  # [2^half, 2^(d - half)]
    return _entropy(total(joint) / _count(logits, total))


def _codes_of(logits: Tensor) -> Tensor:
    """Distribution of each vector over all codes of its bits: `[b, M]` -> `[2^b, M]`."""
    table = logits.new_ones(1, logits.shape[1])
    for one, zero in zip(logits.sigmoid(), (-logits).sigmoid(), strict=True):
        table = torch.cat([table * zero, table * one])
    return table


def _entropy(shares: Tensor) -> Tensor:
    return -(shares * shares.clamp(min=TINY).log()).sum()


def _count(logits: Tensor, total: Total) -> Tensor:
    return total(logits.new_full((), float(logits.shape[1]))).clamp(min=1)

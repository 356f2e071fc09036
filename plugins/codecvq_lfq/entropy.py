"""Exact entropies of soft sign codes, without clamping and without a table of all codes per vector.

With logits t_k the bits of a vector are independent, P(bit k = 1) = p_k = sigmoid(t_k). The entropy of one
vector's code is a sum over bits, O(d). The mean distribution over all 2^d codes is A Bᵀ / M, where A and B
contain each vector's distribution over the codes of the lower and of the upper half of the bits. Vectors are
along the last axis, so that every operation works on long rows in memory.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_EXACT_BITS = 20  # up to here the distribution over all codes is computed: 2^20 floats
MIN_PROBABILITY = 1e-37  # avoids NaN gradients of log 0; does not change the entropy

#: Sums a tensor over all processes, or returns it unchanged.
Reduction = Callable[[Tensor], Tensor]


def sample_entropy(logits: Tensor, reduce_sum: Reduction) -> Tensor:
    """Mean over vectors of the entropy of their code, in nats: `[d, M]` -> 0-d.

    H = Σ softplus(t) - t p.
    """
    entropies = F.softplus(logits) - logits * logits.sigmoid()
    return reduce_sum(entropies.sum()) / _vector_count(logits, reduce_sum)


def codebook_entropy(logits: Tensor, reduce_sum: Reduction) -> Tensor:
    """Entropy of the mean distribution over codes, in nats: `[d, M]` -> 0-d.

    With more than MAX_EXACT_BITS bits it is the sum of the bits' entropies, an upper bound.
    """
    bits = len(logits)
    if bits > MAX_EXACT_BITS:
        mean = reduce_sum(logits.sigmoid().sum(dim=1)) / _vector_count(logits, reduce_sum)
        return _entropy(mean) + _entropy(1 - mean)
    half = bits // 2
    joint = (
        _code_distributions(logits[:half]) @ _code_distributions(logits[half:]).T
    )  # [2^half, 2^(d - half)]
    return _entropy(reduce_sum(joint) / _vector_count(logits, reduce_sum))


def _code_distributions(logits: Tensor) -> Tensor:
    """Each vector's distribution over all codes of its bits: `[b, M]` -> `[2^b, M]`."""
    table = logits.new_ones(1, logits.shape[1])
    for one, zero in zip(logits.sigmoid(), (-logits).sigmoid(), strict=True):
        table = torch.cat([table * zero, table * one])
    return table


def _entropy(probabilities: Tensor) -> Tensor:
    return -(probabilities * probabilities.clamp(min=MIN_PROBABILITY).log()).sum()


def _vector_count(logits: Tensor, reduce_sum: Reduction) -> Tensor:
    return reduce_sum(logits.new_full((), float(logits.shape[1]))).clamp(min=1)

"""Entropies of soft sign codes, exact: no clamp, no table of all codes.

With logits t_k the bits of a vector are independent, P(bit k = 1) = p_k = sigmoid(t_k). So the entropy of one
vector's code is a sum over bits, O(d), and the mean distribution over all 2^d codes is Aᵀ B / M, where A and
B hold each vector's distribution over the codes of the lower and of the upper half of the bits.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from codecvq.quantizer import sum_over_ranks

EXACT_BITS = 20  # up to here the distribution over all codes is made: 2^20 floats


def sample_entropy(logits: Tensor) -> Tensor:
    """Mean over vectors of the entropy of their code, nats: `[M, d]` -> 0-d. H = Σ softplus(t) - t p."""
    total = (F.softplus(logits) - logits * logits.sigmoid()).sum()
    return sum_over_ranks(total) / _count(logits)


def codebook_entropy(logits: Tensor) -> Tensor:
    """Entropy of the mean distribution over codes, nats, over all processes: `[M, d]` -> 0-d.

    Beyond EXACT_BITS bits it is the sum of the entropies of the bits, which is an upper bound.
    """
    bits = logits.shape[1]
    ones = logits.sigmoid()
    if bits > EXACT_BITS:
        mean = sum_over_ranks(ones.sum(dim=0)) / _count(logits)
        return (torch.special.entr(mean) + torch.special.entr(1 - mean)).sum()
    half = bits // 2
    joint = _codes_of(ones[:, :half]).T @ _codes_of(ones[:, half:])  # [2^half, 2^(d - half)]
    return torch.special.entr(sum_over_ranks(joint) / _count(logits)).sum()


def _codes_of(ones: Tensor) -> Tensor:
    """Distribution of each vector over all codes of its bits: `[M, b]` -> `[M, 2^b]`."""
    table = ones.new_ones(len(ones), 1)
    for bit in ones.unbind(dim=1):
        both = torch.stack([1 - bit, bit], dim=1)  # [M, 2]
        table = rearrange(both[:, :, None] * table[:, None, :], "m two codes -> m (two codes)")
    return table


def _count(logits: Tensor) -> Tensor:
    return sum_over_ranks(torch.tensor(float(len(logits)), device=logits.device))

"""Entropy of the frequencies of codes: a measure of codebook usage."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    Counts = TypeVar("Counts", npt.NDArray[np.generic], Tensor)


def entropy_nats(counts: Counts) -> Counts:
    """Return the entropy in nats of code counts: `[…, K]` -> `[…]`.

    Its exponential is the perplexity; divided by log(2) it is in bits. It is 0 if all counts are 0. The
    estimate is biased low, more so with fewer counts per occurring code.
    """
    totals = counts.sum(-1)[..., None]
    shares = counts / (totals + (totals == 0))
    if isinstance(shares, np.ndarray):
        return -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(-1) + 0.0
    import torch

    return torch.special.entr(shares).sum(-1)

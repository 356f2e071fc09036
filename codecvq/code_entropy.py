"""How evenly codes are used: the entropy of how often each occurs."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    Counts = TypeVar("Counts", npt.NDArray[np.generic], Tensor)


def entropy_nats(counts: Counts) -> Counts:
    """The entropy of the frequencies of codes, from how often each occurs: `[…, K]` -> `[…]`, in nats (e to
    the power of it is the perplexity, by log(2) it is in bits). 0 where nothing was counted.

    It is biased low, the more so the fewer codes are counted for each that occurs.
    """
    totals = counts.sum(-1)[..., None]
    shares = counts / (totals + (totals == 0))
    if isinstance(shares, np.ndarray):
        return -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(-1) + 0.0
    import torch

    return torch.special.entr(shares).sum(-1)

"""The clipped straight-through estimator of binarized networks (arXiv:1602.02830, eq. 4): G = diag(|z| <= 1).

A channel that is far outside already is neither pushed further out nor pulled back: what brings it back is a
loss.
"""

from torch import Tensor


def clipped_straight_through(x: Tensor, z: Tensor, q: Tensor) -> Tensor:
    """`G x`; shapes `[M, D]`."""
    return x * (z.abs() <= 1)

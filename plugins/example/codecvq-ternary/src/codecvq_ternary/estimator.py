"""The clipped straight-through estimator of binarized networks (arXiv:1602.02830, eq. 4): G = diag(|z_i| <= 1).

A channel that is far outside already is not pushed further out, nor pulled back: what brings it back is the loss.
"""

from torch import Tensor


def clipped_straight_through(x: Tensor, z: Tensor, q: Tensor) -> Tensor:
    """`G x`; shapes `[M, D]`."""
    return x * (z.abs() <= 1)

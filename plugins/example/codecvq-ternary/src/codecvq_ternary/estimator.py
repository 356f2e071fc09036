"""The clipped straight-through estimator of binarized networks (arXiv:1602.02830, eq. 4): G = diag(|z| <= 1).

A channel with |z| > 1 gets no gradient of the task. Only a loss of the quantizer can bring it back.
"""

from torch import Tensor


def clipped_straight_through(x: Tensor, z: Tensor, q: Tensor) -> Tensor:
    """`G x`; shapes `[M, D]`."""
    return x * (z.abs() <= 1)

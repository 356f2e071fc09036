"""The straight-through estimator (arXiv:1308.3432): G = I."""

from torch import Tensor


def straight_through(x: Tensor, z: Tensor, q: Tensor) -> Tensor:
    """`x` itself: G = I."""
    return x

"""The rotation trick (arXiv:2410.06424, eq. 4) as an estimator: G = s R.

R is the smallest rotation that maps u = z/|z| to v = q/|q|, a product of two reflections. With h = u + v, c =
u·v and |h|² = 2 (1 + c),

    R x = x - h (h·x) / (1 + c) + 2 v (u·x)        (check: R u = u - h + 2 v = v)

and s = |q|/|z|. The backward pass multiplies the gradient by Gᵀ. If R or s is undefined (z = 0, q = 0, z =
-q), G is the identity. s is limited to MAX_SCALE, because a residual near 0 would make the gradient
arbitrarily large.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_SCALE = 10.0
TINY = 1e-6  # R and s count as undefined if |z|, |q| or 1 + c is below this


def rotation(x: Tensor, z: Tensor, q: Tensor) -> Tensor:
    """`s R x`; shapes `[M, D]`."""
    return _rotate(x, z, q, scaled=True)


def rotation_unscaled(x: Tensor, z: Tensor, q: Tensor) -> Tensor:
    """`R x`; shapes `[M, D]`."""
    return _rotate(x, z, q, scaled=False)


def _rotate(x: Tensor, z: Tensor, q: Tensor, scaled: bool) -> Tensor:
    z_norm, q_norm = z.norm(dim=1, keepdim=True), q.norm(dim=1, keepdim=True)  # [M, 1]
    u, v = z / z_norm.clamp(min=TINY), q / q_norm.clamp(min=TINY)
    h = u + v
    one_plus_cosine = h.square().sum(dim=1, keepdim=True) / 2
    defined = (z_norm > TINY) & (q_norm > TINY) & (one_plus_cosine > TINY)
    rotated = (
        x
        - h * ((h * x).sum(dim=1, keepdim=True) / one_plus_cosine.clamp(min=TINY))
        + 2 * v * (u * x).sum(dim=1, keepdim=True)
    )
    if scaled:
        rotated = rotated * (q_norm / z_norm.clamp(min=TINY)).clamp(max=MAX_SCALE)
    return torch.where(defined, rotated, x)

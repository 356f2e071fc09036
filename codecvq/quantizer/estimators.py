"""Gradient estimators: how the gradient passes a step that has none.

Every estimator here is a choice of a linear map G, made of the input z and the chosen value q, both without
gradient:

    z_q = sg[G] z + sg[q - G z]        (forward exactly q; backward Gᵀ of the gradient of z_q)

Straight-through is G = I (arXiv:1308.3432), the rotation trick G = (|q|/|z|) R with R the smallest rotation
of z onto q (arXiv:2410.06424). A plugin offers a G as a function `(x, z, q) -> G x`; what is here is the
rest.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from codecvq.plugins import registry

#: (x, z, q), each [M, D], z and q without gradient -> G x [M, D]
Estimator = Callable[[Tensor, Tensor, Tensor], Tensor]


def find_estimator(name: str) -> Estimator:
    """The estimator registered under `name`."""
    return registry().find("estimators", name).load()


def estimate(estimator: Estimator, z: Tensor, q: Tensor) -> Tensor:
    """`q`, bit for bit, with the gradient that `estimator` sends to `z`; none goes to `q`.

    Shapes: z `[M, D]`, q `[M, D]` -> `[M, D]`.
    """
    moved = estimator(z, z.detach(), q.detach())
    # the bracket is 0 forward: q + 0 is q exactly, z + (q - z) is not
    return q.detach() + (moved - moved.detach())

"""Gradient estimators: how the gradient passes a step that has none.

Every estimator here is a choice of a linear map G, made of the input z and the chosen value q, both without
gradient:

    z_q = sg[G] z + sg[q - G z]        (forward exactly q; backward Gᵀ of the gradient of z_q)

Straight-through is G = I (arXiv:1308.3432), the rotation trick G = (|q|/|z|) R with R the smallest rotation
of z onto q (arXiv:2410.06424). A plugin offers a G as a function `(x, z, q) -> G x`; what is here is the
rest.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from codecvq.api.hookspecs import EstimatorSpec
from codecvq.plugins import PROJECT, registry
from codecvq.transfer import AsyncScalar

logger = logging.getLogger(PROJECT)

#: (x, z, q), each [M, D], z and q without gradient -> G x [M, D]
Estimator = Callable[[Tensor, Tensor, Tensor], Tensor]


def find_estimator(name: str) -> Estimator:
    """The estimator registered under `name`."""
    return registry().find(EstimatorSpec, name).load()


def straight_through(x: Tensor, z: Tensor, q: Tensor) -> Tensor:
    """`x` itself, so G = I (arXiv:1308.3432): the estimator "ste", which the library offers itself."""
    return x


def estimate(estimator: Estimator, z: Tensor, q: Tensor, monitor: GainMonitor | None = None) -> Tensor:
    """`q`, bit for bit, with the gradient that `estimator` sends to `z`; none goes to `q`.

    Shapes: z `[M, D]`, q `[M, D]` -> `[M, D]`. `monitor` warns if G scales gradients much.
    """
    moved = estimator(z, z.detach(), q.detach())
    if monitor is not None and moved is not z and not torch.compiler.is_compiling():
        monitor.observe(z.detach(), moved.detach())
    # the bracket is 0 forward: q + 0 is q exactly, z + (q - z) is not
    return q.detach() + (moved - moved.detach())


class GainMonitor:
    """Warns, once, where |G z|/|z| stays outside [0.1, 10]: G z is q for the rotation, so that codewords much
    shorter or longer than latents scale the gradient of the encoder away, or blow it up.

    It looks at every 50th step only, and needs 4 looks in a row. On a GPU a gain is read at the look after
    its own, so that no step waits for it.
    """

    LOWEST, HIGHEST = 0.1, 10.0
    STEPS, CHECKS = 50, 4

    def __init__(self, name: str) -> None:
        self.name = name
        self._steps = self._outside = 0
        self._gains: deque[AsyncScalar] = deque()

    def observe(self, z: Tensor, moved: Tensor) -> None:
        """One training step: z and G z, `[M, D]`."""
        self._steps += 1
        if self._steps % self.STEPS or not len(z) or self._outside >= self.CHECKS:
            return
        self._gains.append(AsyncScalar((moved.norm(dim=1) / z.norm(dim=1).clamp(min=1e-12)).median()))
        while self._gains and (gain := self._gains[0].value()) is not None:
            self._gains.popleft()
            self._count(gain)

    def _count(self, gain: float) -> None:
        # G may bound its scale at just HIGHEST, so that counts as beyond
        self._outside = 0 if self.LOWEST <= gain < 0.99 * self.HIGHEST else self._outside + 1
        if self._outside == self.CHECKS:
            logger.warning(
                "estimator %s: for %d steps codewords have been about %.3g times as long as latents, and "
                "gradients are scaled by as much. Use init: kmeans, dead_code_threshold above 0, or "
                "estimator: rotation_unscaled.",
                self.name,
                self.CHECKS * self.STEPS,
                gain,
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> GainMonitor:
        return GainMonitor(self.name)

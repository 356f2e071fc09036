"""Gradient estimators, which define a gradient for the quantization step.

Each estimator is a linear map G that depends on the input z and the quantized value q, both detached. With
the stop-gradient sg, the output is

    z_q = sg[G] z + sg[q - G z]        (forward exactly q; backward Gᵀ of the gradient of z_q)

Straight-through is G = I (arXiv:1308.3432). The rotation trick is G = (|q|/|z|) R with R the smallest
rotation of z onto q (arXiv:2410.06424). A plugin registers G as a function `(x, z, q) -> G x`; this module
does the rest.
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

#: A function `(x, z, q) -> G x`, all `[M, D]`; z and q are detached.
Estimator = Callable[[Tensor, Tensor, Tensor], Tensor]


def find_estimator(name: str) -> Estimator:
    """Return the estimator registered under `name`. Raises UnknownName."""
    return registry().find(EstimatorSpec, name).load()


def straight_through(x: Tensor, z: Tensor, q: Tensor) -> Tensor:
    """Return `x`, so that G = I (arXiv:1308.3432): the built-in estimator "ste"."""
    return x


def estimate(estimator: Estimator, z: Tensor, q: Tensor, monitor: GainMonitor | None = None) -> Tensor:
    """Return `q`, bit for bit, with the gradient that `estimator` defines for `z`. `q` gets no gradient.

    Shapes: z `[M, D]`, q `[M, D]` -> `[M, D]`. `monitor` logs a warning if G scales gradients strongly.
    """
    moved = estimator(z, z.detach(), q.detach())
    if monitor is not None and moved is not z and not torch.compiler.is_compiling():
        monitor.observe(z.detach(), moved.detach())
    # the term in parentheses is 0 in the forward pass: q + 0 equals q exactly, z + (q - z) does not
    return q.detach() + (moved - moved.detach())


class GainMonitor:
    """Logs a warning, once, if the gain |G z|/|z| of an estimator stays outside of [0.1, 10].

    For the rotation trick G z is q. Codewords much shorter or longer than latents then scale the gradient of
    the encoder down or up by that factor.

    It checks every `STEPS` steps and needs `CHECKS` consecutive results. On a GPU it reads each result at the
    next check, so that no step synchronizes with the GPU.
    """

    LOWEST, HIGHEST = 0.1, 10.0
    STEPS, CHECKS = 50, 4

    def __init__(self, name: str) -> None:
        self.name = name
        self._steps = self._outside = 0
        self._gains: deque[AsyncScalar] = deque()

    def observe(self, z: Tensor, moved: Tensor) -> None:
        """Count one training step with z and G z, `[M, D]` each."""
        self._steps += 1
        if self._steps % self.STEPS or not len(z) or self._outside >= self.CHECKS:
            return
        self._gains.append(AsyncScalar((moved.norm(dim=1) / z.norm(dim=1).clamp(min=1e-12)).median()))
        while self._gains and (gain := self._gains[0].value()) is not None:
            self._gains.popleft()
            self._count(gain)

    def _count(self, gain: float) -> None:
        # An estimator may clamp its gain to exactly HIGHEST, which counts as outside.
        self._outside = 0 if self.LOWEST <= gain < 0.99 * self.HIGHEST else self._outside + 1
        if self._outside == self.CHECKS:
            logger.warning(
                "estimator %s: for %d steps codewords have been about %.3g times as long as latents, which "
                "scales gradients by the same factor. Use init: kmeans, dead_code_threshold above 0, or "
                "estimator: rotation_unscaled.",
                self.name,
                self.CHECKS * self.STEPS,
                gain,
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> GainMonitor:
        return GainMonitor(self.name)

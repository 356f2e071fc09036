"""Scalars of training steps, buffered on the device.

A step adds one row of numbers without synchronizing with the GPU. `StepMetrics.read` copies all rows to the
host in one transfer and checks them in order. A step with non-finite gradients counts as skipped and its
cause is logged; many consecutive ones end the training. Skipped steps have changed no weights, averages or
counts (see `gradients`), however late they are read.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from codecvq.errors import RunError
from codecvq.plugins import PROJECT
from codecvq.training.gradients import GradientStats

logger = logging.getLogger(PROJECT)

NORM, FIRST_NONFINITE, SCALE = "gradient/norm", "gradient/first_bad", "gradient/scale"
DISCRIMINATOR_NORM = "discriminator/gradient_norm"


@dataclass(frozen=True)
class _StepRow:
    step: int
    names: tuple[str, ...]
    values: Tensor  # [n], on the device
    host_scalars: Mapping[str, float]  # scalars that are already on the host
    parameters: Sequence[str]  # indexed by FIRST_NONFINITE


class StepMetrics:
    """Scalars of steps and the number of skipped steps.

    Args: `max_bad_steps` is the number of consecutive skipped steps that ends the training.
    """

    def __init__(self, accelerator: Accelerator, max_bad_steps: int) -> None:
        self.accelerator, self.max_bad_steps = accelerator, max_bad_steps
        self.skipped = self.consecutive_skipped = 0
        self._rows: list[_StepRow] = []
        self._values: dict[str, list[float]] = {}

    def add(
        self,
        step: int,
        scalars: Mapping[str, Tensor],
        gradients: GradientStats,
        host_scalars: Mapping[str, float],
    ) -> None:
        """Add the 0-d tensors, gradient statistics and host scalars of a step."""
        named = {**scalars, NORM: gradients.norm, FIRST_NONFINITE: gradients.first_nonfinite}
        values = torch.stack([value.detach().float() for value in named.values()])
        self._rows.append(_StepRow(step, tuple(named), values, host_scalars, gradients.names))

    def read(self) -> None:
        """Read and check the steps since the last call. Every rank must call this.

        Raises RunError after `max_bad_steps` consecutive skipped steps.
        """
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        values = torch.cat([row.values for row in rows])
        if self.accelerator.num_processes > 1:  # NaN in one process is NaN in the mean
            values = self.accelerator.reduce(values, reduction="mean")
        numbers = iter(values.tolist())
        for row in rows:
            scalars = {name: next(numbers) for name in row.names}
            if math.isfinite(scalars[NORM]):
                self._record(row, scalars)
            else:
                self._count_skipped(row, scalars)

    def take_means(self) -> dict[str, float]:
        """Return means of the scalars since the last call, excluding skipped steps, and reset them."""
        self.read()
        means = {name: sum(values) / len(values) for name, values in self._values.items()}
        self._values = {}
        return means

    def _record(self, row: _StepRow, scalars: dict[str, float]) -> None:
        self.consecutive_skipped = 0
        del scalars[FIRST_NONFINITE]
        if not math.isfinite(scalars.get(DISCRIMINATOR_NORM, 0.0)):
            del scalars[DISCRIMINATOR_NORM]
            if not _overflowed(scalars, finite=True):
                text = "step %d: discriminators not updated, their gradients are not finite"
                logger.warning(text, row.step)
        for name, value in {**scalars, **row.host_scalars}.items():
            self._values.setdefault(name, []).append(value)

    def _count_skipped(self, row: _StepRow, scalars: dict[str, float]) -> None:
        """Count a step with non-finite gradients. Overflows of fp16 do not count: its loss scale adapts."""
        losses = {name.removeprefix("loss/"): v for name, v in scalars.items() if name.startswith("loss/")}
        nonfinite = {name: value for name, value in losses.items() if not math.isfinite(value)}
        if _overflowed(scalars, finite=not nonfinite):
            return
        self.skipped += 1
        self.consecutive_skipped += 1
        cause = _describe_cause(nonfinite, row.parameters, round(scalars[FIRST_NONFINITE]))
        logger.warning("step %d skipped: %s (%d skipped in total)", row.step, cause, self.skipped)
        if self.consecutive_skipped >= self.max_bad_steps:
            raise RunError(
                f"{self.consecutive_skipped} consecutive steps had NaN or infinity; in the last one, "
                f"{cause}. Lower optimizer.learning_rate, or set training.precision=fp32. The last "
                "checkpoint of the run is valid."
            )


def _overflowed(scalars: Mapping[str, float], finite: bool) -> bool:
    """Whether non-finite gradients are an fp16 overflow, which a lower loss scale corrects.

    This is so if the losses are `finite` and the scale can still fall.
    """
    return finite and scalars.get(SCALE, 0.0) >= 1.0


def _describe_cause(nonfinite: Mapping[str, float], parameters: Sequence[str], first: int) -> str:
    """Describe the first non-finite loss, or else the first parameter with a non-finite gradient."""
    for name, value in nonfinite.items():
        return f"loss {name!r} is {value}"
    return (
        f"the gradient of {parameters[first]} is not finite"
        if first >= 0
        else "the gradient's norm is not finite"
    )

"""What steps gave, kept on the device until it is looked at.

A step adds one row of numbers and waits for nothing. `look` brings all rows to the processor in one transfer
and judges them in order: a step whose gradients have NaN or infinity counts as skipped, its cause is logged,
and many in a row end the training. The step itself has changed no weight, no average and no count by then
(see `gradients`), however late it is judged.
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
from codecvq.training.gradients import Gradients

logger = logging.getLogger(PROJECT)

NORM, FIRST_BAD, SCALE = "gradient/norm", "gradient/first_bad", "gradient/scale"
OF_DISCRIMINATORS = "discriminator/gradient_norm"


@dataclass(frozen=True)
class _Row:
    step: int
    names: tuple[str, ...]
    values: Tensor  # [n], on the device
    known: Mapping[str, float]  # scalars that the processor has
    parameters: Sequence[str]  # which FIRST_BAD counts


class Outcomes:
    """The scalars of steps, and how many were skipped.

    Args: `max_bad_steps` in a row after which the training ends.
    """

    def __init__(self, accelerator: Accelerator, max_bad_steps: int) -> None:
        self.accelerator, self.max_bad_steps = accelerator, max_bad_steps
        self.skipped = self.bad_in_a_row = 0
        self._rows: list[_Row] = []
        self._values: dict[str, list[float]] = {}

    def add(
        self, step: int, scalars: Mapping[str, Tensor], gradients: Gradients, known: Mapping[str, float]
    ) -> None:
        """Add the 0-d tensors of a step, what is known of its gradients, and plain numbers."""
        named = {**scalars, NORM: gradients.norm, FIRST_BAD: gradients.first_bad}
        values = torch.stack([value.detach().float() for value in named.values()])
        self._rows.append(_Row(step, tuple(named), values, known, gradients.names))

    def look(self) -> None:
        """Judge the steps since the last look. Under several processes all call it together.

        Raises RunError after `max_bad_steps` skipped steps in a row.
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
                self._keep(row, scalars)
            else:
                self._skip(row, scalars)

    def take(self) -> dict[str, float]:
        """Means of the scalars of the steps since they were last taken, without those skipped."""
        self.look()
        means = {name: sum(values) / len(values) for name, values in self._values.items()}
        self._values = {}
        return means

    def _keep(self, row: _Row, scalars: dict[str, float]) -> None:
        self.bad_in_a_row = 0
        del scalars[FIRST_BAD]
        if not math.isfinite(scalars.get(OF_DISCRIMINATORS, 0.0)):
            del scalars[OF_DISCRIMINATORS]
            if not _overflowed(scalars, finite=True):
                text = "step %d: the discriminators skip it, as their gradients are not finite"
                logger.warning(text, row.step)
        for name, value in {**scalars, **row.known}.items():
            self._values.setdefault(name, []).append(value)

    def _skip(self, row: _Row, scalars: dict[str, float]) -> None:
        """Count a step with NaN or infinity; what fp16 takes to find its scale does not count."""
        losses = {name.removeprefix("loss/"): v for name, v in scalars.items() if name.startswith("loss/")}
        bad = {name: value for name, value in losses.items() if not math.isfinite(value)}
        if _overflowed(scalars, finite=not bad):
            return
        self.skipped += 1
        self.bad_in_a_row += 1
        cause = _cause(bad, row.parameters, round(scalars[FIRST_BAD]))
        logger.warning("step %d skipped: %s (%d skipped so far)", row.step, cause, self.skipped)
        if self.bad_in_a_row >= self.max_bad_steps:
            raise RunError(
                f"{self.bad_in_a_row} steps in a row gave NaN or infinity, the last in {cause}. Lower "
                "optimizer.learning_rate, or set training.precision=fp32. The last checkpoint of the run is "
                "whole."
            )


def _overflowed(scalars: Mapping[str, float], finite: bool) -> bool:
    """Whether infinite gradients are an overflow of fp16, which a lower scale mends: the losses are `finite`,
    and the scale is not at its end.
    """
    return finite and scalars.get(SCALE, 0.0) >= 1.0


def _cause(bad: Mapping[str, float], parameters: Sequence[str], first: int) -> str:
    """The first loss, or else the first parameter's gradient, that is NaN or infinite."""
    for name, value in bad.items():
        return f"loss {name!r} is {value}"
    return (
        f"the gradient of {parameters[first]} is not finite"
        if first >= 0
        else "the gradient's norm is not finite"
    )

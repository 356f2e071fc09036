"""Progress and speed of a training."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class TrainingProgress:
    """Progress of a training, for a progress line."""

    step: int  # completed steps
    steps: int  # total
    scalars: Mapping[str, float]  # logged last
    seconds_left: float | None


class StepTimer:
    """Recent duration of a step, excluding checkpoints and validation.

    A step returns before a GPU has finished it. The clock is therefore read only after synchronizing with the
    GPU, and the time is divided by the number of steps since the last reading. A new phase, such as the start
    of adversarial training, discards earlier readings.
    """

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=10)  # seconds per step: the last readings of this phase
        self._since = time.monotonic()
        self._steps = self._phase = 0

    def tick(self, phase: int = 0) -> None:
        """Count a queued step of `phase`. The first step of a new phase is slower and does not count."""
        if phase != self._phase:
            self._phase = phase
            self._times.clear()
            self.restart()
        else:
            self._steps += 1

    def record(self) -> None:
        """Record the time per step. Call this when all queued steps are complete."""
        if self._steps:
            self._times.append((time.monotonic() - self._since) / self._steps)

    def restart(self) -> None:
        """Restart the clock. Call this when no step is running and the next one starts now."""
        self._since, self._steps = time.monotonic(), 0

    @property
    def step_s(self) -> float | None:
        """Seconds per step, the median of the last readings; None before the first one of a phase."""
        return median(self._times) if self._times else None

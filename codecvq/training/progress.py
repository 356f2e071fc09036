"""Where a training is and how fast it goes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training is: for a progress line."""

    step: int  # steps done
    steps: int  # of all
    scalars: Mapping[str, float]  # the last ones logged
    seconds_left: float | None


class StepTimer:
    """How long a step takes lately, checkpoints and validation left out.

    A step returns before a GPU has made it. So the clock is read where the processor has waited for the
    device, and the time is shared out over the steps since it was last read. When a training enters another
    phase, as that with discriminators, what was read before says nothing any more and is dropped.
    """

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=10)  # seconds a step, of the last logs of this phase
        self._since = time.monotonic()
        self._steps = self._phase = 0

    def tick(self, phase: int = 0) -> None:
        """A step of that phase has been queued. The first of a phase, which is slower, is not counted."""
        if phase != self._phase:
            self._phase = phase
            self._times.clear()
            self.restart()
        else:
            self._steps += 1

    def record(self) -> None:
        """All steps so far have been made."""
        if self._steps:
            self._times.append((time.monotonic() - self._since) / self._steps)

    def restart(self) -> None:
        """The next step begins now, and none is under way."""
        self._since, self._steps = time.monotonic(), 0

    @property
    def step_s(self) -> float | None:
        """Seconds a step, the median of the last readings; None before the first of a phase."""
        return median(self._times) if self._times else None

"""Where a training is and how fast it goes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Moment:
    """Where a training is: for a progress line."""

    step: int  # steps done
    steps: int  # of all
    scalars: Mapping[str, float]  # the last ones logged
    seconds_left: float | None


class Pace:
    """How long a step takes lately, checkpoints and validation left out.

    A step returns before a GPU has made it. So the clock is read where the processor has waited for the
    device, and the time is shared out over the steps since it was last read.
    """

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=10)  # seconds a step, of the last logs
        self._since = time.monotonic()
        self._steps = 0

    def tick(self) -> None:
        """A step has been queued."""
        self._steps += 1

    def read(self) -> None:
        """All steps so far have been made."""
        self._times.append((time.monotonic() - self._since) / max(1, self._steps))

    def rest(self) -> None:
        """The next step begins now, and none is under way."""
        self._since, self._steps = time.monotonic(), 0

    @property
    def step_s(self) -> float | None:
        """Seconds a step, the median of the last readings; None before the first."""
        return median(self._times) if self._times else None

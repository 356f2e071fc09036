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


class Means:
    """Means of scalars since they were last taken; a step that was skipped adds none."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, scalars: Mapping[str, float]) -> None:
        """Add the scalars of a step."""
        for name, value in scalars.items():
            self._values.setdefault(name, []).append(value)

    def take(self) -> dict[str, float]:
        """The means, to begin anew."""
        means = {name: sum(values) / len(values) for name, values in self._values.items()}
        self._values = {}
        return means


class Pace:
    """How long a step takes lately, checkpoints and validation left out."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=100)
        self._since = time.monotonic()

    def tick(self) -> None:
        """A step has ended."""
        self._times.append(time.monotonic() - self._since)

    def rest(self) -> None:
        """The next step begins now."""
        self._since = time.monotonic()

    @property
    def step_s(self) -> float:
        """Seconds a step, the median."""
        return median(self._times)

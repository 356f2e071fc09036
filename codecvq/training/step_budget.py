"""How many steps a training has: those of its recipe, or as many as fit into `training.minutes`."""

from __future__ import annotations

import time
from collections.abc import Mapping

FIT_AFTER_STEPS = 100  # steps: the first are slower, as kernels are chosen and graphs compiled
WARMUP_STEPS = 20
MIN_STEPS_BEFORE_FIT, UNLIMITED = 10**4, 10**9  # steps


class StepBudget:
    """The number of steps that the schedules of a training end at.

    With `minutes` that number is fitted to the time that is left, first after a hundred steps and then each
    time `fit` is called, from the mean time of a step so far, validation and logging included. Time that
    earlier processes of a resumed training used counts. Such a training depends on the clock: a second run
    makes another number of steps.

    Args: `steps` of the recipe, which hold until they are fitted.
    """

    def __init__(self, steps: int, minutes: float | None) -> None:
        self.steps, self.limit_s = steps, None
        if minutes is not None:  # until they are fitted, learning rates must not fall to their end
            self.steps, self.limit_s = max(steps, MIN_STEPS_BEFORE_FIT), 60 * minutes
        self.earlier_s = 0.0  # by earlier processes
        self._started_at = self._warm_at = time.monotonic()
        self._first = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds of training so far, in all processes one after another."""
        return self.earlier_s + time.monotonic() - self._started_at

    def remaining_s(self, step_s: float | None, done: int) -> float | None:
        """Seconds that are left after `done` steps of `step_s` seconds; None where that is not known yet."""
        if self.limit_s is not None:
            return max(0.0, self.limit_s - self.elapsed_s)
        return None if step_s is None else step_s * (self.steps - done)

    def start(self, first: int) -> None:
        """The clock starts, before step `first`."""
        self._started_at = self._warm_at = time.monotonic()
        self._first = first

    def record_step(self, done: int) -> None:
        """`done` steps have been made."""
        if done == self._first + WARMUP_STEPS:
            self._warm_at = time.monotonic()

    def fit(self, done: int) -> None:
        """Fit the number of steps to the time, after `done` steps."""
        timed_steps = done - self._first - WARMUP_STEPS
        if self.limit_s is None:
            return
        remaining_s = self.limit_s - self.elapsed_s
        if remaining_s <= 0:
            self.steps = done
        elif timed_steps >= FIT_AFTER_STEPS - WARMUP_STEPS:
            step_s = (time.monotonic() - self._warm_at) / timed_steps
            self.steps = done + max(1, int(remaining_s / step_s))
        else:
            self.steps = max(self.steps, done + 1)

    def is_finished(self, done: int) -> bool:
        """Whether `done` steps are all."""
        return done >= self.steps

    @property
    def max_steps(self) -> int:
        """Steps that there may be at most."""
        return self.steps if self.limit_s is None else UNLIMITED

    def state(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"steps": self.steps, "spent_s": self.elapsed_s}

    def load(self, state: Mapping[str, float]) -> None:
        """What `state` gave. Steps that were fitted to the time hold on; else those of the recipe do."""
        self.earlier_s = state["spent_s"]
        if self.limit_s is not None:
            self.steps = int(state["steps"])

"""Number of steps of a training: fixed by its recipe or fitted to `training.minutes`."""

from __future__ import annotations

import time
from collections.abc import Mapping

FIT_AFTER_STEPS = 100
WARMUP_STEPS = 20  # not timed: the first steps are slower while kernels are selected and graphs compiled
MIN_STEPS_BEFORE_FIT, UNLIMITED = 10**4, 10**9  # steps


class StepBudget:
    """The number of steps at which the schedules of a training end.

    With `minutes`, `fit` adjusts this number to the remaining time, from 100 steps on. It uses the mean time
    of a step, including validation and logging. The time of earlier processes of a resumed training counts.
    Such a training depends on the clock: a repeated run has a different number of steps.

    Args: `steps` of the recipe, used until the first fit; `minutes` is None for a fixed number of steps.
    """

    def __init__(self, steps: int, minutes: float | None) -> None:
        self.steps, self.limit_s = steps, None
        if minutes is not None:  # before the first fit, learning rates must not decay to their final value
            self.steps, self.limit_s = max(steps, MIN_STEPS_BEFORE_FIT), 60 * minutes
        self.earlier_s = 0.0  # training time of earlier processes
        self._started_at = self._warm_at = time.monotonic()
        self._first = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds of training until now, including earlier processes of a resumed run."""
        return self.earlier_s + time.monotonic() - self._started_at

    def remaining_s(self, step_s: float | None, done: int) -> float | None:
        """Remaining seconds after `done` steps of `step_s` seconds each; None if not yet known."""
        if self.limit_s is not None:
            return max(0.0, self.limit_s - self.elapsed_s)
        return None if step_s is None else step_s * (self.steps - done)

    def start(self, first: int) -> None:
        """Start the clock before step `first`."""
        self._started_at = self._warm_at = time.monotonic()
        self._first = first

    def record_step(self, done: int) -> None:
        """Record that `done` steps are complete."""
        if done == self._first + WARMUP_STEPS:
            self._warm_at = time.monotonic()

    def fit(self, done: int) -> None:
        """Fit the number of steps to the remaining time, after `done` steps."""
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
        """Whether `done` steps complete the training."""
        return done >= self.steps

    @property
    def max_steps(self) -> int:
        """Upper bound of the number of steps."""
        return self.steps if self.limit_s is None else UNLIMITED

    def state(self) -> dict[str, float]:
        """State for a checkpoint."""
        return {"steps": self.steps, "spent_s": self.elapsed_s}

    def load(self, state: Mapping[str, float]) -> None:
        """Load a state returned by `state`.

        Restores the number of steps only if it is fitted to the time; otherwise the recipe's number is used.
        """
        self.earlier_s = state["spent_s"]
        if self.limit_s is not None:
            self.steps = int(state["steps"])

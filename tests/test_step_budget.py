"""Number of training steps with a time budget in minutes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from codecvq.training import loop, step_budget
from codecvq.training.recipe import load_recipe
from codecvq.training.step_budget import StepBudget
from recipes import write_recipe


class Clock:
    """Replaces the module `time`."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(step_budget, "time", clock)
    return clock


def record_steps(plan: StepBudget, clock: Clock, first: int, last: int, seconds: float) -> None:
    for done in range(first + 1, last + 1):
        clock.now += seconds
        plan.record_step(done)


def test_without_minutes_the_steps_are_those_of_the_recipe(clock: Clock) -> None:
    plan = StepBudget(300, None)
    plan.start(0)
    record_steps(plan, clock, 0, 200, 50.0)
    plan.fit(200)
    assert (plan.steps, plan.max_steps) == (300, 300)
    assert [plan.is_finished(done) for done in (299, 300)] == [False, True]


def test_steps_fill_the_minutes_without_the_slow_first_steps(clock: Clock) -> None:
    plan = StepBudget(50, 10)
    plan.start(0)
    record_steps(plan, clock, 0, 20, 5.0)  # 100 s
    record_steps(plan, clock, 20, 60, 0.5)
    plan.fit(60)
    assert not plan.is_finished(60), "the budget is not fitted before step 100"
    record_steps(plan, clock, 60, 100, 0.5)  # 140 s of 600
    plan.fit(100)
    assert plan.steps == 100 + 460 / 0.5
    record_steps(plan, clock, 100, 600, 1.0)  # 640 s of 600
    plan.fit(600)
    assert plan.is_finished(600)


def test_time_of_earlier_processes_counts(clock: Clock) -> None:
    first = StepBudget(50, 1)
    first.start(0)
    record_steps(first, clock, 0, 150, 0.2)  # 30 s
    first.fit(150)
    assert first.steps == pytest.approx(300, abs=1)
    second = StepBudget(50, 1)
    second.load(first.state())
    clock.now += 10_000
    second.start(150)
    assert second.steps == first.steps
    record_steps(second, clock, 150, 250, 0.4)  # another 40 s
    second.fit(250)
    assert second.is_finished(250)


@pytest.mark.parametrize("cache", ["memory", pytest.param("device", marks=pytest.mark.slow)])
def test_a_training_with_minutes_ends_on_time_with_a_low_learning_rate(tmp_path: Path, cache: str) -> None:
    training = {
        "minutes": 0.1,
        "steps": 10**6,
        "log_every": 20,
        "checkpoint_every": 10**5,
        "validate_every": 10**5,
    }
    corpus = {"cache": cache, "segment_s": 0.2}
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml", training=training, corpus=corpus))
    trained = loop.train(recipe, tmp_path / "run")
    began = time.monotonic()
    assert trained.steps > 100
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == trained.steps
    assert "validation/mel" in rows[-1]
    rates = [row["optimizer/learning_rate"] for row in rows]
    assert rates[-1] < 0.5 * max(rates), "step times of a shared machine are hard to predict"
    last = json.loads((max((tmp_path / "run" / "checkpoints").iterdir()) / "checkpoint.json").read_text())
    assert last["step"] == trained.steps
    assert 4 < trained.seconds < 15, "six seconds of steps, and the time before and after them"
    again = loop.train(recipe, tmp_path / "run")
    assert again.resumed_at == again.steps == trained.steps
    assert time.monotonic() - began < 5, "the run was already finished"

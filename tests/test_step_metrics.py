"""Metrics of steps: means, skipped steps and their messages."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from accelerate import Accelerator

from codecvq.errors import RunError
from codecvq.training.gradients import GradientStats
from codecvq.training.step_metrics import DISCRIMINATOR_NORM, SCALE, StepMetrics

NAMES = ["first.weight", "second.weight"]


def make_step_metrics(max_bad_steps: int = 10) -> StepMetrics:
    return StepMetrics(Accelerator(cpu=True), max_bad_steps)


def add(
    to: StepMetrics, step: int, loss: float, norm: float = 1.0, first_nonfinite: int = -1, **more: float
) -> None:
    gradients = GradientStats(torch.tensor(norm), torch.tensor(first_nonfinite), NAMES)
    scalars = {"loss/mel": torch.tensor(loss)} | {name: torch.tensor(value) for name, value in more.items()}
    to.add(step, scalars, gradients, {"optimizer/learning_rate": 0.5})


def test_means_cover_the_steps_since_the_last_call_without_skipped_steps() -> None:
    metrics = make_step_metrics()
    add(metrics, 0, 2.0)
    add(metrics, 1, math.nan, norm=math.nan)
    add(metrics, 2, 4.0, norm=3.0)
    assert metrics.take_means() == {"loss/mel": 3.0, "gradient/norm": 2.0, "optimizer/learning_rate": 0.5}
    assert metrics.skipped == 1
    assert metrics.take_means() == {}


def test_messages_of_skipped_steps_name_the_loss_or_the_gradient(caplog: pytest.LogCaptureFixture) -> None:
    metrics = make_step_metrics()
    add(metrics, 7, math.nan, norm=math.nan, first_nonfinite=0)
    add(metrics, 8, 1.0, norm=math.inf, first_nonfinite=1)
    with caplog.at_level(logging.WARNING):
        metrics.read()
    assert [record.getMessage() for record in caplog.records] == [
        "step 7 skipped: loss 'mel' is nan (1 skipped in total)",
        "step 8 skipped: the gradient of second.weight is not finite (2 skipped in total)",
    ]


def test_consecutive_bad_steps_are_counted_across_reads() -> None:
    metrics = make_step_metrics(max_bad_steps=2)
    for step, norm in enumerate((math.nan, 1.0, math.nan)):
        add(metrics, step, 1.0, norm=norm, first_nonfinite=0)
        metrics.read()
    add(metrics, 3, 1.0, norm=math.nan, first_nonfinite=0)
    with pytest.raises(RunError, match=r"2 consecutive steps .* the gradient of first\.weight"):
        metrics.read()


def test_fp16_overflows_are_not_bad_steps_while_the_scale_can_decrease() -> None:
    metrics = make_step_metrics()
    add(metrics, 0, 1.0, norm=math.inf, first_nonfinite=0, **{SCALE: 2.0**10})
    metrics.read()
    assert metrics.skipped == 0
    add(metrics, 1, 1.0, norm=math.inf, first_nonfinite=0, **{SCALE: 0.5})
    add(metrics, 2, math.inf, norm=math.inf, first_nonfinite=0, **{SCALE: 2.0**10})
    metrics.read()
    assert metrics.skipped == 2


def test_skipped_discriminator_steps_do_not_skip_the_codec(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = make_step_metrics()
    add(metrics, 5, 1.0, **{DISCRIMINATOR_NORM: math.nan})
    assert DISCRIMINATOR_NORM not in metrics.take_means()
    assert metrics.skipped == 0
    assert "step 5: discriminators not updated" in caplog.text

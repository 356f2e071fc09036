"""What steps gave, judged after the fact."""

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


def outcomes(most: int = 10) -> StepMetrics:
    return StepMetrics(Accelerator(cpu=True), most)


def add(
    to: StepMetrics, step: int, loss: float, norm: float = 1.0, first_nonfinite: int = -1, **more: float
) -> None:
    gradients = GradientStats(torch.tensor(norm), torch.tensor(first_nonfinite), NAMES)
    scalars = {"loss/mel": torch.tensor(loss)} | {name: torch.tensor(value) for name, value in more.items()}
    to.add(step, scalars, gradients, {"optimizer/learning_rate": 0.5})


def test_means_are_of_the_steps_since_the_last_time_without_those_skipped() -> None:
    found = outcomes()
    add(found, 0, 2.0)
    add(found, 1, math.nan, norm=math.nan)
    add(found, 2, 4.0, norm=3.0)
    assert found.take_means() == {"loss/mel": 3.0, "gradient/norm": 2.0, "optimizer/learning_rate": 0.5}
    assert found.skipped == 1
    assert found.take_means() == {}


def test_a_skipped_step_names_the_loss_or_else_the_gradient(caplog: pytest.LogCaptureFixture) -> None:
    found = outcomes()
    add(found, 7, math.nan, norm=math.nan, first_nonfinite=0)
    add(found, 8, 1.0, norm=math.inf, first_nonfinite=1)
    with caplog.at_level(logging.WARNING):
        found.read()
    assert [record.getMessage() for record in caplog.records] == [
        "step 7 skipped: loss 'mel' is nan (1 skipped in total)",
        "step 8 skipped: the gradient of second.weight is not finite (2 skipped in total)",
    ]


def test_only_so_many_in_a_row_end_a_training_however_often_it_is_looked() -> None:
    found = outcomes(most=2)
    for step, norm in enumerate((math.nan, 1.0, math.nan)):
        add(found, step, 1.0, norm=norm, first_nonfinite=0)
        found.read()
    add(found, 3, 1.0, norm=math.nan, first_nonfinite=0)
    with pytest.raises(RunError, match=r"2 consecutive steps .* the gradient of first\.weight"):
        found.read()


def test_an_overflow_of_fp16_counts_as_no_bad_step_while_the_scale_can_fall() -> None:
    found = outcomes()
    add(found, 0, 1.0, norm=math.inf, first_nonfinite=0, **{SCALE: 2.0**10})
    found.read()
    assert found.skipped == 0
    add(found, 1, 1.0, norm=math.inf, first_nonfinite=0, **{SCALE: 0.5})
    add(found, 2, math.inf, norm=math.inf, first_nonfinite=0, **{SCALE: 2.0**10})
    found.read()
    assert found.skipped == 2


def test_discriminators_that_skip_a_step_are_named_and_leave_the_codec_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = outcomes()
    add(found, 5, 1.0, **{DISCRIMINATOR_NORM: math.nan})
    assert DISCRIMINATOR_NORM not in found.take_means()
    assert found.skipped == 0
    assert "step 5: discriminators not updated" in caplog.text

"""The loss scale of fp16, tested on the CPU with the CPU scaler of torch and float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adversarial_runs import recipe_at, rows, same, weights

from codecvq.errors import RunError
from codecvq.training import loop
from codecvq.training.checkpoint import last_checkpoint
from codecvq.training.learner import Learner


def scaled(monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Make trainings use a scaled loss."""

    class Scaled(loop.Accelerator):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            self.scaler = torch.amp.GradScaler("cpu", **options)

    monkeypatch.setattr(loop, "Accelerator", Scaled)


def test_a_loss_scale_does_not_change_codec_and_discriminators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_at(tmp_path / "tiny.yaml")
    loop.train(recipe, tmp_path / "plain")
    scaled(monkeypatch, init_scale=2.0**10, growth_interval=3)  # a power of two is exact
    loop.train(recipe, tmp_path / "scaled")
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "scaled"))
    plain, other = (last_checkpoint(tmp_path / name / "checkpoints") for name in ("plain", "scaled"))
    assert plain is not None
    assert other is not None
    assert same(plain.state["adversary"]["networks"], other.state["adversary"]["networks"])
    scales = [row["gradient/scale"] for row in rows(tmp_path / "scaled")]
    assert scales[-1] > 2.0**10, "it grew in between"
    assert other.state["scaler"]["scale"] == 2.0**14, "twelve steps, doubled after each third"


def test_overflows_lower_the_scale_and_do_not_count_as_bad_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaled(monkeypatch, init_scale=2.0**127, growth_interval=1000)
    training = {"steps": 30, "log_every": 1, "max_bad_steps": 1}
    recipe = recipe_at(tmp_path / "tiny.yaml", discriminator={"start_step": 0}, training=training)
    trained = loop.train(recipe, tmp_path / "run")
    assert trained.skipped == 0
    found = [row for row in rows(tmp_path / "run") if "gradient/norm" in row]
    assert 0 < len(found) < 30, "some steps were overflows"
    assert found[-1]["gradient/scale"] < 2.0**127
    assert found[-1]["loss/total"] < found[0]["loss/total"]


def test_nan_in_a_loss_is_a_bad_step_also_with_a_loss_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaled(monkeypatch, init_scale=1024.0)
    recipe = recipe_at(tmp_path / "tiny.yaml", training={"max_bad_steps": 2})
    plain = Learner.step
    monkeypatch.setattr(Learner, "step", lambda learner, step, wav, *_: plain(learner, step, wav * torch.nan))
    with pytest.raises(RunError, match=r"2 consecutive steps had NaN or infinity.* loss 'mel'"):
        loop.train(recipe, tmp_path / "run")


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_fp16_without_a_gpu_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="fp16, which needs a GPU"):
        loop.train(recipe_at(tmp_path / "tiny.yaml", training={"precision": "fp16"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()

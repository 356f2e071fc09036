"""Adversarial training: resuming, averaged weights, start step, accumulation and several processes."""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from adversarial_runs import BAND, VQ, recipe_at, rows, same, weights

from codecvq.api.hookspecs import hookimpl
from codecvq.codec import load
from codecvq.data.clip import Clip
from codecvq.errors import MissingExtra, RecipeError, ShapeError
from codecvq.plugins import registry
from codecvq.training import builders, loop
from codecvq.training.average import WeightAverage
from codecvq.training.checkpoint import last_checkpoint
from codecvq.training.learner import Learner
from codecvq.training.recipe import load_recipe
from codecvq.training.watch import WINDOW, codecvq_train_logged


@pytest.fixture
def stop_at_step_eight(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    plain = Learner.step

    def stop(learner: Learner, step: int, wav: torch.Tensor, clips: Sequence[Clip]) -> None:
        if step == 8:
            raise KeyboardInterrupt
        return plain(learner, step, wav, clips)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", stop)
        yield patch


@pytest.mark.parametrize("balance", [False, True], ids=["weights", "balancer"])
def test_a_resumed_adversarial_training_gives_the_same_state(
    tmp_path: Path, stop_at_step_eight: pytest.MonkeyPatch, balance: bool
) -> None:
    recipe = recipe_at(tmp_path / "tiny.yaml", losses={"balance": balance})
    with pytest.raises(KeyboardInterrupt):
        loop.train(recipe, tmp_path / "stopped")
    stop_at_step_eight.undo()
    assert loop.train(recipe, tmp_path / "stopped").resumed_at == 5
    loop.train(recipe, tmp_path / "whole")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
    ours, theirs = (last_checkpoint(tmp_path / run / "checkpoints") for run in ("whole", "stopped"))
    assert ours is not None
    assert theirs is not None
    assert same(ours.state["adversary"]["networks"], theirs.state["adversary"]["networks"])
    assert same(ours.state["average"]["weights"], theirs.state["average"]["weights"])
    assert ("balancer" in ours.state) == balance
    assert same(ours.state.get("balancer", {}), theirs.state.get("balancer", {}))


def test_discriminators_change_the_codec_only_from_start_step_on(tmp_path: Path) -> None:
    plain = recipe_at(
        tmp_path / "plain.yaml", losses={"adversarial": 0.0, "feature_matching": 0.0}, discriminator=None
    )
    for name, start in (("late", 12), ("early", 0)):
        recipe = recipe_at(tmp_path / f"{name}.yaml", discriminator={"start_step": start})
        loop.train(recipe, tmp_path / name)
    loop.train(plain, tmp_path / "plain")
    assert same(weights(tmp_path / "late"), weights(tmp_path / "plain"))
    assert not same(weights(tmp_path / "early"), weights(tmp_path / "plain"))
    assert "loss/adversarial" in rows(tmp_path / "early")[-1]
    assert "loss/adversarial" not in rows(tmp_path / "late")[-1]


def test_the_saved_codec_has_averaged_weights_and_the_checkpoint_has_both(tmp_path: Path) -> None:
    loop.train(recipe_at(tmp_path / "tiny.yaml"), tmp_path / "run")
    checkpoint = last_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    saved = weights(tmp_path / "run")
    averaged = checkpoint.state["average"]["weights"]
    assert all(torch.equal(saved[name], averaged[name]) for name in averaged)
    assert any(not torch.equal(checkpoint.weights[name], averaged[name]) for name in averaged)


def test_the_moving_average_matches_its_definition() -> None:
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    average = WeightAverage(module, decay=0.5)
    expected = module.weight.detach().double().clone()
    for step in range(1, 7):
        with torch.no_grad():
            module.weight.add_(torch.randn_like(module.weight))
        average.update(torch.tensor(True))
        keep = min(0.5, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * module.weight.detach().double()
    own = module.weight.detach().clone()
    average.update(torch.tensor(False))  # a skipped step
    with average.applied():
        torch.testing.assert_close(module.weight.detach().double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(module.weight.detach(), own), "the weights of the module are restored"


def test_accumulated_batches_train_as_one_batch(tmp_path: Path) -> None:
    for name, batch, accumulate in (("whole", 4, 1), ("parts", 1, 4)):
        training = {"batch_size": batch, "accumulate": accumulate, "steps": 4, "validate_every": 100}
        recipe = recipe_at(tmp_path / f"{name}.yaml", quantizer=FSQ, training=training)
        loop.train(recipe, tmp_path / name)
    ours, theirs = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # the machine may have fewer cores
def test_worker_processes_make_the_same_batches(tmp_path: Path) -> None:
    for workers in (0, 2):
        recipe = recipe_at(tmp_path / f"{workers}.yaml", training={"steps": 3, "workers": workers})
        loop.train(recipe, tmp_path / f"run{workers}")
    assert same(weights(tmp_path / "run0"), weights(tmp_path / "run2"))


def test_discriminators_that_are_never_used_give_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    late = {"networks": [BAND], "start_step": 2}
    loop.train(
        recipe_at(tmp_path / "late.yaml", training={"steps": 2}, discriminator=late), tmp_path / "late"
    )
    assert "start_step is 2, but training.steps is 2: the discriminators are never used" in caplog.text


def test_a_corpus_without_validation_clips_gives_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clips = builders.recipe_corpus(recipe_at(tmp_path / "a.yaml").corpus).split("train").clips[:3]
    (tmp_path / "few.jsonl").write_text(
        "".join(json.dumps({"path": str(clip.path), "id": clip.id}) + "\n" for clip in clips)
    )
    few = {"name": None, "manifest": str(tmp_path / "few.jsonl"), "segment_s": 0.5}
    recipe = recipe_at(tmp_path / "b.yaml", corpus=few, training={"steps": 1})
    loop.train(recipe, tmp_path / "run")
    assert "a hash selects one clip in twenty, and there are 3" in caplog.text
    assert not (tmp_path / "run" / "best").exists()


def test_a_best_codec_with_an_unreadable_score_is_replaced(
    tmp_path: Path, stop_at_step_eight: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = recipe_at(tmp_path / "tiny.yaml")
    with pytest.raises(KeyboardInterrupt):
        loop.train(recipe, tmp_path / "run")
    stop_at_step_eight.undo()
    score = tmp_path / "run" / "best" / "best.json"
    assert json.loads(score.read_text())["step"] == 6
    score.write_text("")
    loop.train(recipe, tmp_path / "run")
    assert "best.json cannot be read" in caplog.text
    assert json.loads(score.read_text())["step"] == 6 + 6


def test_the_best_codec_is_selected_by_a_metric(tmp_path: Path) -> None:
    training = {"validation_metrics": ["stoi"], "keep_best": "validation/stoi", "validate_every": 3}
    loop.train(recipe_at(tmp_path / "tiny.yaml", training=training), tmp_path / "run")
    best = json.loads((tmp_path / "run" / "best" / "best.json").read_text())
    seen = {row["step"]: row["validation/stoi"] for row in rows(tmp_path / "run") if "validation/stoi" in row}
    assert best["value"] == pytest.approx(max(seen.values()), rel=1e-4)
    assert seen[best["step"]] == pytest.approx(best["value"], rel=1e-4)
    assert load(tmp_path / "run" / "best").sample_rate == 16000
    with pytest.raises(RecipeError, match="validation/pesq"):
        loop.train(recipe_at(tmp_path / "b.yaml", training={"keep_best": "validation/pesq"}), tmp_path / "b")


def test_a_missing_metric_is_skipped_unless_it_selects_the_best_codec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "pesq" else find_spec(name, *rest)
    )
    training = {"steps": 1, "validation_metrics": ["stoi", "pesq_wb"]}
    recipe = recipe_at(tmp_path / "tiny.yaml", training=training)
    with caplog.at_level(logging.WARNING, "codecvq"):
        loop.train(recipe, tmp_path / "run")
    assert "validation skips metric pesq_wb" in caplog.text
    assert "validation/stoi" in rows(tmp_path / "run")[-1]
    recipe = recipe_at(tmp_path / "b.yaml", training={**training, "keep_best": "validation/pesq_wb"})
    with pytest.raises(MissingExtra, match="pip install"):
        loop.train(recipe, tmp_path / "b")


def test_losses_that_cannot_select_a_best_codec_give_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = recipe_at(tmp_path / "tiny.yaml", losses={"mel": 0.0, "waveform": 1.0}, training={"steps": 1})
    with caplog.at_level(logging.WARNING, "codecvq"):
        loop.train(recipe, tmp_path / "run")
    assert "the run will have no best/ folder" in caplog.text
    assert not (tmp_path / "run" / "best").exists()


def test_discriminators_longer_than_a_segment_are_an_error_before_training(tmp_path: Path) -> None:
    network = {"name": "ms_stft", "windows": [16384], "filters": 1}
    recipe = recipe_at(tmp_path / "tiny.yaml", discriminator={"networks": [network], "start_step": 10})
    with pytest.raises(ShapeError, match=r"at least 16384 samples.*segment_s"):
        loop.train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_plugins_receive_decoded_validation_clips(tmp_path: Path) -> None:
    received: list[tuple[int, str, int]] = []

    class Collector:
        @hookimpl
        def codecvq_train_logged(self, run: Any, step: int) -> None:
            received.extend((step, clip.id, len(clip.decoded)) for clip in run.validation_samples)

    origin = registry().register(Collector(), "collector")
    try:
        loop.train(recipe_at(tmp_path / "tiny.yaml"), tmp_path / "run")
    finally:
        registry().unregister(origin)
    assert {step for step, _, _ in received} == {6, 12}
    assert len({id_ for _, id_, _ in received}) == 2
    assert all(length > 0 for _, _, length in received)


def test_adversarial_losses_and_discriminators_require_each_other(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="need a discriminator"):
        recipe_at(tmp_path / "a.yaml", discriminator=None)
    with pytest.raises(RecipeError, match="it is never used"):
        recipe_at(tmp_path / "b.yaml", losses={"adversarial": 0.0, "feature_matching": 0.0})


def test_misspelled_trackers_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="Did you mean 'wandb'"):
        loop.train(recipe_at(tmp_path / "a.yaml", training={"trackers": ["wandbb"]}), tmp_path / "a")
    with pytest.raises(RecipeError, match="pip install aim"):
        loop.train(recipe_at(tmp_path / "b.yaml", training={"trackers": ["aim"]}), tmp_path / "b")
    loop.train(
        recipe_at(tmp_path / "c.yaml", training={"trackers": ["tensorboard"], "steps": 2}), tmp_path / "c"
    )
    assert list((tmp_path / "c").rglob("events.out*"))


@pytest.mark.parametrize(("rate", "warned"), [(0.999, "WIN"), (0.5, "GUESS"), (0.7, "")])
def test_discriminators_that_win_or_guess_for_long_give_a_warning(
    rate: float, warned: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Run:
        state: dict[str, Any] = {"codebook_watch": {}, "discriminator_watch": []}  # noqa: RUF012

    Run.state["discriminator_watch"].clear()
    with caplog.at_level(logging.WARNING):
        for step in range(WINDOW - 1):
            codecvq_train_logged(Run(), step, {"discriminator/win_rate": rate})  # type: ignore[arg-type]
        assert not caplog.text, "the warning needs more steps"
        codecvq_train_logged(Run(), WINDOW, {"discriminator/win_rate": rate})  # type: ignore[arg-type]
    assert (f"DISCRIMINATORS {warned}" in caplog.text) == bool(warned)


#: no EMA codebook, which each part of an accumulated batch would update
FSQ = {"name": "fsq", "levels": [5, 5, 5, 5], "num_codebooks": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quantizer", "stages", "discriminator", "balance", "accumulate"),
    [
        ({**VQ, "dropout": 0.0}, ["stages.0", "stages.1"], {"in_turn": False, "every_item": 2}, True, 1),
        (FSQ, [], {"in_turn": True}, False, 2),
    ],
    ids=["balanced", "accumulated, in turn"],
)
def test_two_processes_with_half_batches_learn_what_one_learns(
    tmp_path: Path,
    quantizer: dict[str, Any],
    stages: list[str],
    discriminator: dict[str, Any],
    balance: bool,
    accumulate: int,
) -> None:
    for name, batch, parts_of_it in (("one", 4, 1), ("two", 2 // accumulate, accumulate)):
        recipe_at(
            tmp_path / f"{name}.yaml",
            quantizer=quantizer,
            discriminator=discriminator,
            losses={"balance": balance},
            training={"batch_size": batch, "accumulate": parts_of_it, "steps": 8},
        )
    train = ["-m", "codecvq", "train"]
    one = [sys.executable, *train, str(tmp_path / "one.yaml"), "--run", str(tmp_path / "one")]
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    two += [*train, str(tmp_path / "two.yaml"), "-r", str(tmp_path / "two")]
    for command in (one, two):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    ours, theirs = weights(tmp_path / "one"), weights(tmp_path / "two")
    start = builders.build_codec(load_recipe(tmp_path / "one.yaml")).state_dict()
    moved = {name: ours[name] - start[name] for name in ours if ours[name].is_floating_point()}
    apart = {name: ours[name] - theirs[name] for name in moved}
    # Adam normalizes gradients, so rounding noise in a gradient gives noisy steps. Hence norms of all tensors
    for part in ("encoder", "decoder", *(f"quantizer.{stage}" for stage in stages)):
        ours_moved, ours_apart = (
            _norm({name: tensor for name, tensor in tensors.items() if name.startswith(part)})
            for tensors in (moved, apart)
        )
        assert ours_apart < 1e-3 * ours_moved, part
    logged = [rows(tmp_path / name)[-1] for name in ("one", "two")]
    for name in (
        "loss/total",
        "loss/mel",
        "loss/feature_matching",
        "codebook/perplexity",
        "discriminator/loss",
    ):
        assert logged[0][name] == pytest.approx(logged[1][name], rel=1e-3), name


def _norm(tensors: dict[str, torch.Tensor]) -> float:
    return float(torch.cat([tensor.flatten() for tensor in tensors.values()]).norm())


@pytest.mark.slow
def test_adversarial_losses_lower_the_win_rate_of_discriminators_over_two_thousand_steps(
    tmp_path: Path,
) -> None:
    late: dict[str, float] = {}
    for name, adversarial in (("adversarial", 1.0), ("without", 1e-9)):
        recipe = recipe_at(
            tmp_path / f"{name}.yaml",
            losses={"adversarial": adversarial, "feature_matching": 0.0},
            discriminator={
                "networks": [{**BAND, "filters": 8, "power": 0.5}],
                "start_step": 200,
                "optimizer": {"learning_rate": 2e-3},
            },
            training={"steps": 2200, "checkpoint_every": 1100, "validate_every": 1100, "batch_size": 2},
            corpus={"segment_s": 0.24},
        )
        loop.train(recipe, tmp_path / name)
        found = rows(tmp_path / name)
        rates = [row["discriminator/win_rate"] for row in found if row["step"] > 1200]
        late[name] = sum(rates) / len(rates)
        assert found[-1]["steps/skipped"] == 0
        assert found[-1]["loss/mel"] < found[len(found) // 10]["loss/mel"], "the loss decreases"
    assert late["without"] > 0.55, "without adversarial losses the discriminators win often"
    assert late["adversarial"] < late["without"] - 0.02

"""Training: exact resume, skipped steps, contents of the run folder, checkpoints and learning rate."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from codecvq.codec import load
from codecvq.data.clip import Clip
from codecvq.errors import RecipeError, RunError
from codecvq.training import loop
from codecvq.training.builders import build_codec
from codecvq.training.checkpoint import Checkpoint, last_checkpoint, save_checkpoint
from codecvq.training.learner import Learner
from codecvq.training.recipe import OptimizerSection, load_recipe
from codecvq.training.run import RunFolder
from codecvq.training.schedule import learning_rate
from recipes import write_recipe

VQ = {"name": "residual_vq", "codebook_size": 16, "codebook_dim": 4, "num_codebooks": 2, "dropout": 0.5}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "codec" / "model.safetensors")


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def start(recipe: Path, run: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "codecvq", "train", str(recipe), "--run", str(run)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_checkpoint(run: Path, process: subprocess.Popen[str], at_least: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if any(int(path.name[5:]) >= at_least for path in (run / "checkpoints").glob("step-*")):
            return
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint of step {at_least}: {process.communicate()}")


@pytest.mark.parametrize(
    "quantizer",
    [pytest.param(None, id="fsq"), pytest.param(VQ, id="residual_vq_with_dropout", marks=pytest.mark.slow)],
)
def test_resume_after_kill_gives_the_same_weights(tmp_path: Path, quantizer: dict | None) -> None:
    sections = {"quantizer": quantizer} if quantizer else {}
    recipe = write_recipe(tmp_path / "tiny.yaml", training={"steps": 150, "checkpoint_every": 25}, **sections)
    process = start(recipe, tmp_path / "killed")
    wait_for_checkpoint(tmp_path / "killed", process, at_least=25)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    reached = last_checkpoint(tmp_path / "killed" / "checkpoints")
    assert reached is not None
    assert reached.step < 150, "the training finished before it was killed"
    again = start(recipe, tmp_path / "killed")
    whole = start(recipe, tmp_path / "whole")
    assert again.communicate()[0], again.returncode
    assert whole.communicate()[0], whole.returncode
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(set(steps)), "no step is logged twice"
    assert steps[-1] == 150


def test_resume_in_one_process_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(
        write_recipe(tmp_path / "tiny.yaml", quantizer=VQ, training={"steps": 12, "checkpoint_every": 5})
    )
    loop.train(recipe, tmp_path / "whole")
    plain = Learner.step

    def stop_at_eight(learner: Learner, step: int, wav: torch.Tensor, clips: Sequence[Clip]) -> None:
        if step == 8:
            raise KeyboardInterrupt
        return plain(learner, step, wav, clips)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", stop_at_eight)
        with pytest.raises(KeyboardInterrupt):
            loop.train(recipe, tmp_path / "stopped")
    assert loop.train(recipe, tmp_path / "stopped").resumed_at == 5
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))


def test_a_finished_run_is_unchanged_and_another_recipe_raises(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml", training={"steps": 2}))
    loop.train(recipe, tmp_path / "run")
    before = weights(tmp_path / "run")
    assert loop.train(recipe, tmp_path / "run").resumed_at == 2
    assert same(before, weights(tmp_path / "run"))
    other = load_recipe(tmp_path / "tiny.yaml", ["training.batch_size=5"])
    with pytest.raises(RunError, match="batch_size: 4 -> 5"):
        loop.train(other, tmp_path / "run")


def test_a_folder_with_other_files_raises(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml"))
    with pytest.raises(RunError, match="other files"):
        loop.train(recipe, tmp_path)


def test_the_run_folder_contains_recipe_metrics_split_and_codec(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml", training={"steps": 6}))
    loop.train(recipe, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert run.recipe() == recipe, "the stored recipe loads unchanged"
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 6]
    assert {"loss/total", "loss/mel", "codebook/usage", "gradient/norm", "optimizer/learning_rate"} <= lines[
        0
    ].keys()
    assert list((run.path / "tensorboard").glob("events.*"))
    splits = [json.loads(line) for line in (run.path / "split.jsonl").read_text().splitlines()]
    assert {row["split"] for row in splits} == {"train", "validation", "test"}
    codec = load(run.path)
    wav = torch.zeros(1, 1, 4321)
    assert codec.decode(codec.encode(wav), num_samples=4321).shape == wav.shape


def test_training_reduces_the_loss(tmp_path: Path) -> None:
    recipe = load_recipe(
        write_recipe(tmp_path / "tiny.yaml", training={"steps": 60}, optimizer={"warmup_steps": 5})
    )
    loop.train(recipe, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss/mel"] < 0.8 * lines[0]["loss/mel"]


def test_steps_with_nan_are_skipped_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml", quantizer=VQ, training={"steps": 6}))
    plain = Learner.step

    def step_with_nan(learner: Learner, step: int, wav: torch.Tensor, clips: Sequence[Clip]) -> None:
        before = {name: value.clone() for name, value in learner.codec.state_dict().items()}
        if step in (2, 3):
            wav = wav.clone()
            wav[1, 0, 17] = torch.nan
        result = plain(learner, step, wav, clips)
        assert same(before, learner.codec.state_dict()) == (step in (2, 3)), (
            "only skipped steps leave the codec unchanged"
        )
        return result

    monkeypatch.setattr(Learner, "step", step_with_nan)
    with caplog.at_level(logging.WARNING, "codecvq"):
        trained = loop.train(recipe, tmp_path / "run")
    assert trained.skipped == 2
    assert [r.message for r in caplog.records if "skipped" in r.message and "loss 'mel'" in r.message]
    assert all(
        bool(tensor.isfinite().all())
        for tensor in weights(tmp_path / "run").values()
        if tensor.is_floating_point()
    )


def test_too_many_consecutive_bad_steps_stop_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml", training={"max_bad_steps": 3}))
    plain = Learner.step
    monkeypatch.setattr(Learner, "step", lambda learner, step, wav, *_: plain(learner, step, wav * torch.nan))
    with pytest.raises(RunError, match="3 consecutive steps"):
        loop.train(recipe, tmp_path / "run")


def test_a_collapsed_codebook_logs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from codecvq.api.training import TrainRun
    from codecvq.training import watch

    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml"))
    run = TrainRun(RunFolder(tmp_path), recipe, 0, 1000)
    watch.codecvq_train_start(run)
    healthy = {"codebook/perplexity/0": 300.0, "codebook/usage/0": 0.6}
    dead = {"codebook/perplexity/1": 1.0, "codebook/usage/1": 1 / 625}
    with caplog.at_level(logging.WARNING, "codecvq"):
        for step in range(10, 200, 10):
            watch.codecvq_train_logged(run, step, healthy | dead)
    messages = [record.message for record in caplog.records if "COLLAPSE" in record.message]
    assert len(messages) == 1, "one warning, not one per step"
    assert "codebook 1" in messages[0]


def test_a_damaged_checkpoint_falls_back_to_the_previous_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2, 3):
        save_checkpoint(
            tmp_path, Checkpoint(step, {"w": torch.full((3,), float(step))}, {"step": step}), keep=2
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    newest = tmp_path / "step-00000003" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING, "codecvq"):
        checkpoint = last_checkpoint(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.state["step"]) == (2, 2)
    assert "step-00000003" in caplog.text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex")
def test_compiled_training_gives_nearly_the_same_weights(tmp_path: Path) -> None:
    for name, compiled in (("eager", False), ("compiled", True)):
        training = {"steps": 4, "validation_clips": 1, "compile": compiled}
        recipe = load_recipe(write_recipe(tmp_path / f"{name}.yaml", training=training))
        loop.train(recipe, tmp_path / name)
    start = build_codec(recipe).state_dict()
    ours, theirs = weights(tmp_path / "eager"), weights(tmp_path / "compiled")
    assert ours.keys() == theirs.keys()
    floats = [name for name in ours if ours[name].is_floating_point()]
    moved = torch.cat([(ours[name] - start[name]).flatten() for name in floats]).norm()
    difference = torch.cat([(ours[name] - theirs[name]).flatten() for name in floats]).norm()
    assert 0 < float(difference) < 0.01 * float(moved), "different code, so rounding errors and not exactly 0"


@pytest.mark.slow
def test_accelerate_launch_runs_a_training(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "tiny.yaml", training={"steps": 3})
    command = [sys.executable, "-m", "accelerate.commands.launch", "-m", "codecvq", "train"]
    command += [str(recipe), "-r", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "run").num_codebooks == 2


def test_the_learning_rate_warms_up_and_decreases() -> None:
    config = OptimizerSection(learning_rate=1.0, warmup_steps=10, final_ratio=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_segments_must_be_a_whole_number_of_frames(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml", corpus={"segment_s": 0.51}))
    with pytest.raises(RecipeError, match=r"segment_s is 0.51.*Set it to 0.52"):
        loop.train(recipe, tmp_path / "run")

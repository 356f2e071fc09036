"""Resuming a run: allowed changes, the lock of the folder, and signals."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from adversarial_runs import rows, same
from pydantic import BaseModel

from codecvq.data.corpus import open_corpus
from codecvq.errors import RunError
from codecvq.training import loop
from codecvq.training.changes import CHANGEABLE_KEYS, FIXED_KEYS, LOCATION_KEYS, differences, is_within
from codecvq.training.checkpoint import last_checkpoint
from codecvq.training.device import usable_threads
from codecvq.training.progress import StepTimer
from codecvq.training.recipe import Recipe, load_recipe
from codecvq.training.run import RunFolder
from codecvq.training.schedule import learning_rate
from recipes import write_recipe


def recipe_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    names = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += recipe_keys(inner, f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name}")
    return names


def test_every_recipe_key_is_in_exactly_one_table() -> None:
    for key in recipe_keys(Recipe):
        tables = [is_within(key, table) for table in (FIXED_KEYS, CHANGEABLE_KEYS, LOCATION_KEYS)]
        assert sum(tables) == 1, key


@pytest.mark.parametrize(
    "override",
    ["training.log_every=7", "training.threads=2", "training.workers=1", "description=other",
     "training.keep_best=validation/stoi", "corpus.cache_gb=1", "evaluation.max_clips=3",
     "training.steps=99"],
)  # fmt: skip
def test_keys_that_do_not_affect_steps_can_change(tmp_path: Path, override: str) -> None:
    path = write_recipe(tmp_path / "tiny.yaml")
    assert differences(load_recipe(path), load_recipe(path, [override])) == []


@pytest.mark.parametrize(
    "override",
    ["training.seed=7", "training.batch_size=5", "losses.mel=3", "network.dim=4", "optimizer.warmup_steps=2",
     "corpus.segment_s=1", "corpus.name=asterisk", "training.precision=bf16", "training.average=0.9"],
)  # fmt: skip
def test_keys_that_affect_steps_cannot_change(tmp_path: Path, override: str) -> None:
    path = write_recipe(tmp_path / "tiny.yaml")
    assert differences(load_recipe(path), load_recipe(path, [override]))


def test_relative_and_absolute_paths_of_initial_weights_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_recipe(tmp_path / "tiny.yaml")
    one, other, third = (load_recipe(path, [f"training.init_from={p}"]) for p in ("a", tmp_path / "a", "b"))
    assert differences(one, other) == []
    assert differences(one, third)


def test_a_finished_run_can_resume_with_more_steps(tmp_path: Path) -> None:
    """The steps are those of an interrupted run: step and recipe determine what a step computes."""
    path = write_recipe(tmp_path / "tiny.yaml", training={"steps": 6, "checkpoint_every": 3})
    loop.train(load_recipe(path), tmp_path / "run")
    more = load_recipe(path, ["training.steps=10", "training.log_every=2", "training.validation_clips=1"])
    done = loop.train(more, tmp_path / "run")
    assert (done.resumed_at, done.steps) == (6, 10)
    folder = RunFolder(tmp_path / "run")
    assert folder.recipe() == more, "the run folder has the new recipe"
    assert [row["step"] for row in rows(tmp_path / "run")] == [5, 6, 8, 10]
    rate = rows(tmp_path / "run")[-1]["optimizer/learning_rate"]
    expected = [learning_rate(more.optimizer, step, 10) for step in (8, 9)]
    assert rate == pytest.approx(sum(expected) / 2, rel=1e-4), "the schedule uses the new number of steps"
    with pytest.raises(RunError, match=r"already has 10 steps, but training\.steps is 4"):
        loop.train(load_recipe(path, ["training.steps=4"]), tmp_path / "run")
    assert load_recipe(tmp_path / "run" / "recipe.yaml").training.steps == 10, "the run is unchanged"


def test_a_corpus_can_move_but_not_change(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    for n, clip in enumerate(open_corpus("prompts").clips[:24]):
        shutil.copy(clip.path, here / f"{n}{clip.path.suffix}")
    path = write_recipe(
        tmp_path / "tiny.yaml",
        corpus={"name": None, "folder": str(here)},
        training={"steps": 2, "validation_clips": 0},
    )
    loop.train(load_recipe(path), tmp_path / "run")
    shutil.copytree(here, there)
    moved = load_recipe(path, [f"corpus.folder={there}", "training.steps=3"])
    assert loop.train(moved, tmp_path / "run").steps == 3
    shutil.move(there / "3.ogg" if (there / "3.ogg").exists() else next(there.iterdir()), tmp_path)
    again = load_recipe(path, [f"corpus.folder={tmp_path / 'there'}/../there", "training.steps=4"])
    with pytest.raises(RunError, match=r"run on other clips \(corpus.folder: .*1 of its 24 clips are not"):
        loop.train(again, tmp_path / "run")


def test_best_checkpoints_of_different_metrics_are_not_compared(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "tiny.yaml", training={"steps": 1})
    loop.train(load_recipe(path), tmp_path / "run")
    best = tmp_path / "run" / "best" / "best.json"
    best.write_text('{"step": 1, "by": "validation/stoi", "value": 0.0001}')
    loop.train(load_recipe(path, ["training.steps=2"]), tmp_path / "run")
    assert '"validation/mel"' in best.read_text()


# The lock of the run folder


def start(recipe: Path, run: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "codecvq", "train", str(recipe), "--run", str(run), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(run: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not list((run / "checkpoints").glob("step-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_folder_is_locked_and_a_kill_releases_it(tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path / "tiny.yaml", training={"steps": 100_000, "checkpoint_every": 5, "workers": 1}
    )
    first = start(recipe, tmp_path / "run")
    try:
        wait_for(tmp_path / "run", first)
        second = start(recipe, tmp_path / "run")
        _, stderr = second.communicate(timeout=60)
        assert second.returncode == 2
        assert f"in use by process {first.pid} on" in stderr
        assert len(stderr.strip().splitlines()) == 1
        first.send_signal(signal.SIGKILL)
        first.wait()
        done = max(
            int(folder.name.removeprefix("step-")) for folder in (tmp_path / "run/checkpoints").glob("step-*")
        )
        # The data worker of the first process may still run.
        more = [f"training.steps={done + 3}", "training.workers=0"]
        assert loop.train(load_recipe(recipe, more), tmp_path / "run").resumed_at == done
    finally:
        first.kill()
        first.communicate()


def test_a_training_that_fails_to_start_leaves_no_folder(tmp_path: Path) -> None:
    recipe = load_recipe(
        write_recipe(tmp_path / "tiny.yaml", training={"init_from": str(tmp_path / "nothing")})
    )
    with pytest.raises(Exception, match="nothing"):
        loop.train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_training_with_a_checkpoint(tmp_path: Path, number: int, code: int) -> None:
    recipe = write_recipe(tmp_path / "tiny.yaml", training={"steps": 100_000, "checkpoint_every": 5})
    process = start(recipe, tmp_path / "run")
    wait_for(tmp_path / "run", process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    last = last_checkpoint(tmp_path / "run" / "checkpoints")
    assert last is not None
    assert f"stopped after {last.step} steps. The same command resumes after step {last.step}." in stderr
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_a_second_signal_stops_immediately(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n"
        "from codecvq.training.learner import Learner\n"
        "plain = Learner.step\n"
        "def step(learner, step, wav, clips):\n"
        "    if step == 1:\n"
        f"        pathlib.Path({str(tmp_path / 'reached')!r}).touch()\n"
        "        end = time.monotonic() + 60\n"
        "        while time.monotonic() < end:\n"
        "            time.sleep(0.05)\n"
        "    return plain(learner, step, wav, clips)\n"
        "Learner.step = step\n"
        "import codecvq\n"
        "@codecvq.hookimpl\n"
        "def codecvq_train_start(run):\n"
        "    pass\n"
    )
    recipe = write_recipe(tmp_path / "tiny.yaml")
    process = start(recipe, tmp_path / "run", "--plugin", str(tmp_path / "slow.py"))
    deadline = time.monotonic() + 60
    while not (tmp_path / "reached").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, "the first signal does not interrupt a step"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step_with_a_checkpoint(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "tiny.yaml", training={"steps": 100_000, "checkpoint_every": 5})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "codecvq", "train", str(recipe), "-r", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "run", process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=90)
    last = last_checkpoint(tmp_path / "run" / "checkpoints")
    assert last is not None
    assert f"resumes after step {last.step}." in stderr
    assert "2 processes on" in stderr


# Threads, announcements, progress and checkpoints


@pytest.mark.parametrize(
    ("omp_threads", "world", "torchrun", "expected"),
    [(None, None, False, 8), ("3", None, False, 3), (None, "2", True, 4), ("1", "2", True, 4),
     ("1", "2", False, 1), ("2", "2", True, 2), ("many", None, False, 8), (None, "99", True, 1)],
)  # fmt: skip
def test_threads_are_omp_num_threads_or_a_share_of_the_processors(
    monkeypatch: pytest.MonkeyPatch, omp_threads: str | None, world: str | None, torchrun: bool, expected: int
) -> None:
    variables: dict[str, Any] = {"OMP_NUM_THREADS": omp_threads, "LOCAL_WORLD_SIZE": world}
    variables["TORCHELASTIC_RUN_ID"] = "x" if torchrun else None
    for name, value in variables.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert usable_threads() == expected


def test_training_announces_device_and_corpus(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml", training={"steps": 1}))
    messages: list[str] = []
    loop.train(recipe, tmp_path / "run", announce=messages.append)
    assert messages[0] == "1 process on cpu, fp32, 1 thread"
    assert messages[1].startswith("corpus prompts: train ")
    assert "min in" in messages[1]


def test_step_time_is_measured_per_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("codecvq.training.progress.time.monotonic", lambda: now[0])
    timer = StepTimer()
    for step in range(200):
        now[0] += 0.1 if step < 100 else 0.5
        timer.tick(int(step >= 100))
        if step % 10 == 9:
            timer.record()
            timer.restart()
            assert timer.step_s == pytest.approx(0.1 if step < 100 else 0.5)


def test_tied_weights_remain_tied_in_checkpoints(tmp_path: Path) -> None:
    from codecvq.training.checkpoint import Checkpoint, save_checkpoint

    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Linear(3, 3)
            self.other = torch.nn.Linear(3, 3)
            self.other.weight = self.one.weight

    module, again = Tied(), Tied()
    save_checkpoint(tmp_path, Checkpoint(5, module.state_dict(), {}), keep=1)
    checkpoint = last_checkpoint(tmp_path)
    assert checkpoint is not None
    again.load_state_dict(checkpoint.weights)
    assert again.one.weight is again.other.weight
    assert same(dict(module.state_dict()), dict(again.state_dict()))


def test_plugin_files_can_move_but_not_change(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml"))
    old, moved, edited = (
        recipe.model_copy(update={"plugins": [f"{path}#sha256={digit * 64}"]})
        for path, digit in (("/a/vq.py", "1"), ("/b/vq.py", "1"), ("/a/vq.py", "2"))
    )
    assert differences(old, moved) == []
    (message,) = differences(old, edited)
    assert "sha256 111111111111…" in message
    assert "sha256 222222222222…" in message
    assert "restore the files" in message

"""A run that goes on: what may change, who holds the folder, and how a signal ends it."""

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


def keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += keys(inner, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found


def test_the_table_says_of_every_key_whether_it_may_change() -> None:
    for key in keys(Recipe):
        said = [is_within(key, table) for table in (FIXED_KEYS, CHANGEABLE_KEYS, LOCATION_KEYS)]
        assert sum(said) == 1, key


@pytest.mark.parametrize(
    "override",
    ["training.log_every=7", "training.threads=2", "training.workers=1", "description=other",
     "training.keep_best=validation/stoi", "corpus.cache_gb=1", "evaluation.max_clips=3",
     "training.steps=99"],
)  # fmt: skip
def test_what_is_no_part_of_a_step_may_change(tmp_path: Path, override: str) -> None:
    path = write_recipe(tmp_path / "tiny.yaml")
    assert differences(load_recipe(path), load_recipe(path, [override])) == []


@pytest.mark.parametrize(
    "override",
    ["training.seed=7", "training.batch_size=5", "losses.mel=3", "network.dim=4", "optimizer.warmup_steps=2",
     "corpus.segment_s=1", "corpus.name=asterisk", "training.precision=bf16", "training.average=0.9"],
)  # fmt: skip
def test_what_changes_a_step_is_another_run(tmp_path: Path, override: str) -> None:
    path = write_recipe(tmp_path / "tiny.yaml")
    assert differences(load_recipe(path), load_recipe(path, [override]))


def test_weights_to_begin_with_are_the_same_under_another_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_recipe(tmp_path / "tiny.yaml")
    one, other, third = (load_recipe(path, [f"training.init_from={p}"]) for p in ("a", tmp_path / "a", "b"))
    assert differences(one, other) == []
    assert differences(one, third)


def test_a_finished_run_goes_on_for_more_steps(tmp_path: Path) -> None:
    """As one that was stopped there would: step and recipe alone say what a step computes."""
    path = write_recipe(tmp_path / "tiny.yaml", training={"steps": 6, "checkpoint_every": 3})
    loop.train(load_recipe(path), tmp_path / "run")
    more = load_recipe(path, ["training.steps=10", "training.log_every=2", "training.validation_clips=1"])
    done = loop.train(more, tmp_path / "run")
    assert (done.resumed_at, done.steps) == (6, 10)
    folder = RunFolder(tmp_path / "run")
    assert folder.recipe() == more, "the run's recipe says what is done now"
    assert [row["step"] for row in rows(tmp_path / "run")] == [5, 6, 8, 10]
    rate = rows(tmp_path / "run")[-1]["optimizer/learning_rate"]
    needed = [learning_rate(more.optimizer, step, 10) for step in (8, 9)]
    assert rate == pytest.approx(sum(needed) / 2, rel=1e-4), "it falls to the new end"
    with pytest.raises(RunError, match=r"already has 10 steps, but training\.steps is 4"):
        loop.train(load_recipe(path, ["training.steps=4"]), tmp_path / "run")
    assert load_recipe(tmp_path / "run" / "recipe.yaml").training.steps == 10, "the run stays as it is"


def test_a_corpus_may_move_and_another_is_refused(tmp_path: Path) -> None:
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


def test_the_best_of_another_measure_is_not_compared(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "tiny.yaml", training={"steps": 1})
    loop.train(load_recipe(path), tmp_path / "run")
    best = tmp_path / "run" / "best" / "best.json"
    best.write_text('{"step": 1, "by": "validation/stoi", "value": 0.0001}')
    loop.train(load_recipe(path, ["training.steps=2"]), tmp_path / "run")
    assert '"validation/mel"' in best.read_text()


# who holds the folder


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
def test_two_trainings_do_not_write_into_one_folder_and_a_kill_frees_it(tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path / "tiny.yaml", training={"steps": 100_000, "checkpoint_every": 5, "workers": 1}
    )
    first = start(recipe, tmp_path / "run")
    try:
        wait_for(tmp_path / "run", first)
        second = start(recipe, tmp_path / "run")
        _, told = second.communicate(timeout=60)
        assert second.returncode == 2
        assert f"in use by process {first.pid} on" in told
        assert len(told.strip().splitlines()) == 1
        first.send_signal(signal.SIGKILL)
        first.wait()
        done = max(
            int(folder.name.removeprefix("step-")) for folder in (tmp_path / "run/checkpoints").glob("step-*")
        )
        more = [
            f"training.steps={done + 3}",
            "training.workers=0",
        ]  # the data worker of the first may live on
        assert loop.train(load_recipe(recipe, more), tmp_path / "run").resumed_at == done
    finally:
        first.kill()
        first.communicate()


def test_a_training_that_cannot_begin_leaves_no_folder(tmp_path: Path) -> None:
    recipe = load_recipe(
        write_recipe(tmp_path / "tiny.yaml", training={"init_from": str(tmp_path / "nothing")})
    )
    with pytest.raises(Exception, match="nothing"):
        loop.train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_training_with_a_checkpoint(tmp_path: Path, number: int, code: int) -> None:
    recipe = write_recipe(tmp_path / "tiny.yaml", training={"steps": 100_000, "checkpoint_every": 5})
    process = start(recipe, tmp_path / "run")
    wait_for(tmp_path / "run", process)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code, told
    last = last_checkpoint(tmp_path / "run" / "checkpoints")
    assert last is not None
    assert f"stopped after {last.step} steps. The same command resumes after step {last.step}." in told
    assert "Traceback" not in told


@pytest.mark.slow
def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
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
    assert process.poll() is None, "it waits for the end of the step"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in told


@pytest.mark.slow
def test_two_processes_stop_together_with_a_checkpoint(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "tiny.yaml", training={"steps": 100_000, "checkpoint_every": 5})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "codecvq", "train", str(recipe), "-r", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "run", process)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=90)
    last = last_checkpoint(tmp_path / "run" / "checkpoints")
    assert last is not None
    assert f"resumes after step {last.step}." in told
    assert "2 processes on" in told


# what it says and takes


@pytest.mark.parametrize(
    ("said", "world", "torchrun", "needed"),
    [(None, None, False, 8), ("3", None, False, 3), (None, "2", True, 4), ("1", "2", True, 4),
     ("1", "2", False, 1), ("2", "2", True, 2), ("many", None, False, 8), (None, "99", True, 1)],
)  # fmt: skip
def test_threads_are_what_was_said_or_a_share_of_the_processors(
    monkeypatch: pytest.MonkeyPatch, said: str | None, world: str | None, torchrun: bool, needed: int
) -> None:
    given: dict[str, Any] = {"OMP_NUM_THREADS": said, "LOCAL_WORLD_SIZE": world}
    given["TORCHELASTIC_RUN_ID"] = "x" if torchrun else None
    for name, value in given.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert usable_threads() == needed


def test_a_training_says_what_it_runs_on_and_how_much_speech_there_is(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml", training={"steps": 1}))
    said: list[str] = []
    loop.train(recipe, tmp_path / "run", announce=said.append)
    assert said[0] == "1 process on cpu, fp32, 1 thread"
    assert said[1].startswith("corpus prompts: train ")
    assert "min in" in said[1]


def test_the_pace_of_another_phase_is_not_the_pace_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_tied_weights_are_saved_and_stay_tied(tmp_path: Path) -> None:
    from codecvq.training.checkpoint import Checkpoint, save_checkpoint

    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Linear(3, 3)
            self.other = torch.nn.Linear(3, 3)
            self.other.weight = self.one.weight

    module, again = Tied(), Tied()
    save_checkpoint(tmp_path, Checkpoint(5, module.state_dict(), {}), keep=1)
    found = last_checkpoint(tmp_path)
    assert found is not None
    again.load_state_dict(found.weights)
    assert again.one.weight is again.other.weight
    assert same(dict(module.state_dict()), dict(again.state_dict()))


def test_an_edited_plugin_is_another_run_and_the_same_file_elsewhere_is_not(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml"))
    old, moved, edited = (
        recipe.model_copy(update={"plugins": [f"{path}#sha256={digit * 64}"]})
        for path, digit in (("/a/vq.py", "1"), ("/b/vq.py", "1"), ("/a/vq.py", "2"))
    )
    assert differences(old, moved) == []
    (said,) = differences(old, edited)
    assert "sha256 111111111111…" in said
    assert "sha256 222222222222…" in said
    assert "restore the files" in said

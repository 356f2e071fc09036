"""Recovery of trainings from full disks, lost data, damaged checkpoints and SIGKILL."""

from __future__ import annotations

import errno
import logging
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from adversarial_runs import recipe_at, rows, same, weights

from codecvq.codec import Codec, load
from codecvq.data.segments import Segments
from codecvq.errors import CorpusError, RunError
from codecvq.files import stale_temporary_files
from codecvq.training import checkpoint, loop
from codecvq.training.checkpoint import last_checkpoint


def test_a_full_disk_logs_a_warning_and_raises_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = recipe_at(tmp_path / "tiny.yaml")
    plain, full = loop.save_checkpoint, [True]

    def save(folder: Path, checkpoint: Any, keep: int) -> Path:
        if full[0] and checkpoint.step == 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(folder, checkpoint, keep)

    monkeypatch.setattr(loop, "save_checkpoint", save)
    with caplog.at_level(logging.WARNING):
        loop.train(recipe, tmp_path / "run")
    assert "step 10 could not be saved" in caplog.text
    assert "of step 5" in caplog.text
    last = last_checkpoint(tmp_path / "run" / "checkpoints")
    assert last is not None
    assert last.step == 12
    recipe = recipe_at(tmp_path / "tiny.yaml", training={"steps": 10})
    with pytest.raises(RunError, match=r"step 10 could not be saved.*Free some space"):
        loop.train(recipe, tmp_path / "short")
    full[0] = False
    assert loop.train(recipe, tmp_path / "short").resumed_at == 5


def test_lost_data_raise_after_a_checkpoint_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_at(tmp_path / "tiny.yaml")
    plain = Segments.cut_batch

    def lost_at_seven(segments: Segments, step: int, rank: int = 0, world: int = 1) -> Any:
        if step == 7:
            raise CorpusError("corpus 'prompts': none of its clips can be read.")
        return plain(segments, step, rank, world)

    with monkeypatch.context() as patch:
        patch.setattr(Segments, "cut_batch", lost_at_seven)
        with pytest.raises(RunError, match=r"of step 7 was saved.*same command"):
            loop.train(recipe, tmp_path / "run")
        assert loop.last_checkpoint(tmp_path / "run/checkpoints").step == 7
    assert loop.train(recipe, tmp_path / "run").resumed_at == 7
    loop.train(recipe, tmp_path / "whole")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_data_lost_before_the_first_step_raise_without_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(segments: Segments, step: int, rank: int = 0, world: int = 1) -> Any:
        raise CorpusError("corpus 'prompts': none of its clips can be read.")

    monkeypatch.setattr(Segments, "cut_batch", lost)
    with pytest.raises(RunError, match=r"none of its clips can be read\. No step was completed"):
        loop.train(recipe_at(tmp_path / "tiny.yaml"), tmp_path / "run")
    assert loop.last_checkpoint(tmp_path / "run/checkpoints") is None


@pytest.mark.slow
def test_data_lost_in_one_process_stop_both_after_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "losing.py").write_text(
        "from codecvq.errors import CorpusError\n"
        "from codecvq.data.segments import Segments\n"
        "plain = Segments.cut_batch\n"
        "def batch(segments, step, rank=0, world=1):\n"
        "    if (step, rank) == (7, 1):\n"
        "        raise CorpusError('the disk of this node is gone.')\n"
        "    return plain(segments, step, rank, world)\n"
        "Segments.cut_batch = batch\n"
        "import time\n"
        "from codecvq.training import loop\n"
        "save = loop.save_checkpoint\n"
        "def slowly(*arguments):\n"  # a process that finishes first would end the other
        "    time.sleep(2)\n"
        "    return save(*arguments)\n"
        "loop.save_checkpoint = slowly\n"
    )
    recipe_at(tmp_path / "tiny.yaml", training={"batch_size": 2})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "codecvq", "train", str(tmp_path / "tiny.yaml"), "-r", str(tmp_path / "run")]
    command += ["--plugin", str(tmp_path / "losing.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    assert "the disk of this node is gone. A checkpoint of step 7 was saved" in done.stderr
    last = last_checkpoint(tmp_path / "run" / "checkpoints")
    assert last is not None
    assert last.step == 7


def test_a_kill_before_the_codec_is_written_is_repaired_by_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_at(tmp_path / "tiny.yaml", training={"steps": 10})
    loop.train(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        plain = loop.Trainer.save_codec

        def killed(trainer: loop.Trainer, step: int, required: bool = False) -> None:
            if step == 10:
                raise KeyboardInterrupt
            plain(trainer, step, required)

        patch.setattr(loop.Trainer, "save_codec", killed)
        with pytest.raises(KeyboardInterrupt):
            loop.train(recipe, tmp_path / "run")
    assert not same(weights(tmp_path / "run"), weights(tmp_path / "whole")), "the codec is of step 5"
    assert loop.train(recipe, tmp_path / "run").resumed_at == 10
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    (tmp_path / "run" / "codec" / "config.json").unlink()  # or a kill between its two files
    loop.train(recipe, tmp_path / "run")
    assert load(tmp_path / "run").config == load(tmp_path / "whole").config | {"name": "run"}


def test_a_full_disk_at_the_end_keeps_the_checkpoint_and_a_resume_writes_the_codec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_at(tmp_path / "tiny.yaml", training={"steps": 5})
    with monkeypatch.context() as patch:
        patch.setattr(Codec, "save", no_space)
        with pytest.raises(RunError, match=r"codec could not be written.*of step 5 is valid. Free"):
            loop.train(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "codec").exists()
    assert loop.train(recipe, tmp_path / "run").resumed_at == 5
    assert load(tmp_path / "run").num_codebooks == 2


def test_a_full_disk_or_a_kill_at_the_start_leaves_the_folder_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_at(tmp_path / "tiny.yaml", training={"steps": 1})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", no_space)
        with pytest.raises(RunError, match=r"cannot be written \(No space left on device\)"):
            loop.train(recipe, tmp_path / "run")
    program = (
        "import os, signal, pathlib, codecvq.files as f\n"
        f"with f.atomic_file(pathlib.Path({str(tmp_path / 'run' / 'recipe.yaml')!r})):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    assert stale_temporary_files(tmp_path / "run" / "recipe.yaml")
    assert loop.train(recipe, tmp_path / "run").steps == 1
    assert not stale_temporary_files(tmp_path / "run" / "recipe.yaml")


def no_space(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_damaged_checkpoints_are_renamed_and_do_not_displace_new_ones(tmp_path: Path) -> None:
    recipe = recipe_at(tmp_path / "tiny.yaml", training={"steps": 12, "keep_checkpoints": 2})
    loop.train(recipe, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-00000010", "step-00000012"]
    whole = weights(tmp_path / "run")
    for step in (12, 10):
        (checkpoints / f"step-{step:08d}" / "state.pt").write_bytes(b"rust")
        if step == 12:
            assert loop.train(recipe, tmp_path / "run").resumed_at == 10
            assert same(weights(tmp_path / "run"), whole)
            names = sorted(path.name for path in checkpoints.iterdir())
            assert names == ["damaged-step-00000012", "step-00000010", "step-00000012"]
    (checkpoints / "step-00000012" / "state.pt").write_bytes(b"rust")
    before = rows(tmp_path / "run")
    with pytest.raises(RunError, match=r"none of the checkpoints in .* can be read"):
        loop.train(recipe, tmp_path / "run")
    assert rows(tmp_path / "run") == before, "the run did not restart"
    other = recipe_at(tmp_path / "b.yaml", training={"steps": 1, "init_from": str(tmp_path / "run")})
    assert loop.train(other, tmp_path / "other").steps == 1, "the codec of the run is intact"


def test_disk_errors_do_not_count_as_damaged_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_at(tmp_path / "tiny.yaml", training={"steps": 5})
    loop.train(recipe, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_sha256", no_space)
        with pytest.raises(RunError, match="may be intact: check the disk"):
            loop.train(recipe, tmp_path / "run")
    assert loop.train(recipe, tmp_path / "run").resumed_at == 5


@pytest.mark.slow
def test_training_on_a_full_tmpfs_fails_cleanly_and_resumes(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        recipe_at(tmp_path / "tiny.yaml", training={"steps": 20, "keep_checkpoints": 2})
        run = disk / "run"
        (disk / "ballast").write_bytes(b"0" * 15_700_000)
        command = [sys.executable, "-m", "codecvq", "train", str(tmp_path / "tiny.yaml"), "--run", str(run)]
        full = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "could not be saved" in full.stderr
        assert "error: step 20 could not be saved" in full.stderr, full.stderr  # after the last step
        assert full.returncode == 2
        (disk / "ballast").unlink()
        command[-1] = str(tmp_path / "elsewhere")
        if run.exists():  # its files are intact, so it can resume
            command[-1] = str(run)
        again = subprocess.run(command, capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_twenty_random_kills_give_bit_identical_weights(tmp_path: Path) -> None:
    steps = 260
    recipe_at(tmp_path / "tiny.yaml", training={"steps": steps, "checkpoint_every": 5, "validate_every": 90})
    command = [sys.executable, "-m", "codecvq", "train", str(tmp_path / "tiny.yaml"), "--run"]
    rng, kills = random.Random(0), 0
    while kills < 20:
        process = subprocess.Popen([*command, str(tmp_path / "killed")], stderr=subprocess.DEVNULL)
        reached = last_checkpoint(tmp_path / "killed" / "checkpoints")
        wait_for_step(tmp_path / "killed", process, (reached.step if reached else 0) + 5)
        time.sleep(rng.random() * 0.4)
        assert process.poll() is None, f"the training finished after {kills} kills"
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    last = last_checkpoint(tmp_path / "killed" / "checkpoints")
    assert last is not None
    assert last.step < steps, f"the training finished after {kills} kills"
    for name in ("killed", "whole"):
        subprocess.run([*command, str(tmp_path / name)], check=True, stderr=subprocess.DEVNULL)
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    assert [row["step"] for row in rows(tmp_path / "killed")] == [
        row["step"] for row in rows(tmp_path / "whole")
    ]


def wait_for_step(run: Path, process: subprocess.Popen[bytes], step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(int(path.name[5:]) >= step for path in (run / "checkpoints").glob("step-*")):
            return
        time.sleep(0.02)
    assert process.poll() is not None, f"no checkpoint of step {step} in two minutes"

"""Training on a GPU: precisions, compilation, resuming, two processes on one GPU."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adversarial_runs import BAND, recipe_at, rows, same, weights

from codecvq.data.device_segments import DeviceSegments
from codecvq.training import loop
from codecvq.training.builders import recipe_corpus, recipe_segments
from codecvq.training.recipe import Recipe

SCRIPT = Path(__file__).with_name("two_processes.py")


def recipe(tmp_path: Path, **sections: Any) -> Recipe:
    discriminator = {"networks": [BAND], "in_turn": False, "start_step": 3}
    return recipe_at(tmp_path / "tiny.yaml", **{"discriminator": discriminator, **sections})


def finite(run: Path) -> list[dict[str, float]]:
    found = rows(run)
    assert found
    assert all(math.isfinite(value) for row in found for value in row.values())
    assert found[-1]["steps/skipped"] == 0
    return found


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_adversarial_training_works_in_every_precision(
    tmp_path: Path, precision: str, device: torch.device
) -> None:
    if precision == "fp16" and device.type == "cpu":
        pytest.skip("fp16 needs a GPU")
    training = {"steps": 20, "log_every": 20}
    for name in ("fp32", precision):
        loop.train(recipe(tmp_path, training={**training, "precision": name}), tmp_path / name)
    exact, found = finite(tmp_path / "fp32")[-1], finite(tmp_path / precision)[-1]
    for loss in ("loss/mel", "loss/feature_matching", "discriminator/loss"):
        assert found[loss] == pytest.approx(exact[loss], rel=0.05)
    assert ("gradient/scale" in found) == (precision == "fp16")


@pytest.mark.slow
def test_a_compiled_codec_learns_like_an_eager_one(tmp_path: Path, device: torch.device) -> None:
    del device
    quantizer = {"name": "fsq", "levels": [5, 5, 5, 5]}
    for name, compiled in (("eager", False), ("compiled", True)):
        training = {"compile": compiled, "steps": 6, "log_every": 1, "precision": "fp32"}
        loop.train(recipe(tmp_path, training=training, quantizer=quantizer), tmp_path / name)
    eager, compiled_rows = finite(tmp_path / "eager"), finite(tmp_path / "compiled")
    for ours, theirs in zip(eager, compiled_rows, strict=True):
        assert theirs["loss/total"] == pytest.approx(ours["loss/total"], rel=0.02)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stopped_training_resumes_to_the_same_bits(
    tmp_path: Path, precision: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    del device
    made = recipe(tmp_path, training={"precision": precision}, corpus={"cache": "device"})
    loop.train(made, tmp_path / "whole")
    loop.train(made, tmp_path / "again")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "again")), "two runs give the same weights"
    plain = loop.Trainer.save

    def killed(trainer: loop.Trainer, step: int, required: bool = False) -> bool:
        plain(trainer, step, required)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Trainer, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        loop.train(made, tmp_path / "stopped")
    monkeypatch.undo()
    assert loop.train(made, tmp_path / "stopped").resumed_at == 5
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))


def test_segments_on_the_gpu_equal_those_of_the_cpu(tmp_path: Path, device: torch.device) -> None:
    augment = {"tilt_db": 6.0, "gain_db": [-9.0, 4.0]}
    made = recipe(tmp_path, corpus={"augment": augment, "cache": "device"})
    segments = recipe_segments(made, recipe_corpus(made.corpus), 320)
    found = DeviceSegments(segments, device).batch(3)
    assert found.device.type == device.type
    torch.testing.assert_close(found.cpu(), torch.from_numpy(segments.batch(3)), rtol=1e-4, atol=1e-5)


def test_two_processes_on_one_gpu_learn_what_one_learns(tmp_path: Path, device: torch.device) -> None:
    """Uses gloo, because NCCL does not support two processes on one GPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = recipe(tmp_path, quantizer={"name": "fsq", "levels": [5, 5]}, training={"precision": "fp32"})
    loop.train(made, tmp_path / "one")
    batch = made.training.batch_size // 2
    half = made.model_copy(update={"training": made.training.model_copy(update={"batch_size": batch})})
    (tmp_path / "half.yaml").write_text(half.to_yaml())
    shared = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    runs = [
        subprocess.Popen(
            [sys.executable, SCRIPT, tmp_path / "half.yaml", tmp_path / "two", device.type],
            env={**os.environ, **shared, "RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        assert [run.wait(timeout=60) for run in runs] == [0, 0]
    finally:
        for run in runs:
            run.kill()
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert two[-1]["loss/mel"] == pytest.approx(one[-1]["loss/mel"], rel=0.02)

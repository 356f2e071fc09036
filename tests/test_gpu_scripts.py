"""The scripts for GPU machines, run on the CPU with small settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from codecvq.codec import load
from recipes import write_recipe

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def script(name: str, folder: Path, *arguments: object) -> str:
    """Output of a script that its wrapper runs, as on the GPU machine, in the environment of these tests."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "CODECVQ_PACKED": str(folder / "nothing packed"),
        "OUT": str(folder / "out"),
        "OMP_NUM_THREADS": "1",
    }
    command = ["bash", f"scripts/gpu/{name}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    "only", ["tests", "recipes speech-16k-natural", "recipes tts-24k-rotation-vq", "codec tokenize"]
)
def test_the_gpu_check_passes_on_the_cpu(tmp_path: Path, only: str) -> None:
    printed = script("check", tmp_path, "--device", "cpu", "--small", "--seconds", 600, "--only", only)
    (row,) = json.loads((tmp_path / "out" / "check.json").read_text())["rows"]
    assert "error" not in row
    assert "not_run" not in row
    assert row["name"] in printed.splitlines()[-1], "the table is printed last"
    if row["part"] == "recipes":
        assert row["step_s"] > 0
        assert 0 < row["busy"] <= 1


def test_checks_beyond_the_time_limit_are_listed_as_not_run(tmp_path: Path) -> None:
    arguments = ("--device", "cpu", "--small", "--seconds", 1, "--only", "codec")
    assert "| codec | tokenize | not_run -" in script("check", tmp_path, *arguments), (
        "the time limit is in the past"
    )


def test_a_training_leg_saves_a_better_codec_within_its_time_limit(tmp_path: Path) -> None:
    first = write_recipe(tmp_path / "first.yaml", training={"steps": 10})
    command = [sys.executable, "-m", "codecvq", "train", first, "--run", tmp_path / "first"]
    subprocess.run(command, check=True, capture_output=True)
    begun = load(tmp_path / "first").save(tmp_path / "begun", dtype=torch.float16)  # as in packed codecs
    options = {"log_every": 10, "freeze": ["encoder", "quantizer"], "init_from": str(begun)}
    recipe = write_recipe(tmp_path / "tiny.yaml", training=options)
    script("train", tmp_path, recipe, "--minutes", 0.2, "--init-from", begun, "corpus.segment_s=0.2")
    leg = json.loads((tmp_path / "out" / "leg.json").read_text())
    assert leg["recipe"]["corpus"]["cache"] == "device"
    assert leg["steps"] > 20
    assert 10 < leg["train_s"] < 60
    names = [name.rpartition("/")[2] for name in leg["scores"]]
    assert names == ["best@2", "codec@2", "begun@2"]
    mel = [scores["mel_distance"] for scores in leg["scores"].values()]
    assert min(mel[:2]) < mel[2], "more steps are better"
    rows = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["step"] == leg["steps"]
    for name in ("best", "codec"):
        parts = sorted((tmp_path / "out").glob(f"{name}.tar.*"))
        assert all(part.stat().st_size <= 15 * 2**20 for part in parts)
        (tmp_path / f"{name}.tar").write_bytes(b"".join(part.read_bytes() for part in parts))
        with tarfile.open(tmp_path / f"{name}.tar") as tar:
            tar.extractall(tmp_path / "home", filter="data")
        brought = load(tmp_path / "home" / name)
        assert brought.codebooks_sha256 == load(begun).codebooks_sha256

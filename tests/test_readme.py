"""The README is true: its commands and its Python run, as they stand, from a user's folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from codecvq.data.corpus import open_corpus

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MADE_BY_CI = {"make quickstart", "make test"}  # .ci/run runs these two themselves
INSTALLED_BY_CI = {"pip install ."}  # .ci/wheel does it
RECORDINGS = 60
SMALLER = [  # a recipe's full networks are for minutes, not for tests
    "network.encoder_width=16",
    "network.decoder_width=16",
    "network.encoder_blocks=1",
    "network.decoder_blocks=1",
    "training.threads=1",
    "training.batch_size=2",
    "training.steps=20",
    "losses.mel.windows=[512]",
    "losses.mel.bands=[40]",
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines() if line]


def run(command: str, folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if command.startswith("codecvq train"):
        command += " " + " ".join(f"'{override}'" for override in SMALLER)
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with some recordings and the README's plugin."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "recordings").mkdir()
    for clip in open_corpus("prompts").clips[:RECORDINGS]:
        shutil.copy(clip.path, folder / "recordings")
    (folder / "thirds.py").write_text(next(block for block in blocks("python") if "class Thirds" in block))
    return folder


def test_the_two_commands_are_in_the_makefile_and_in_ci() -> None:
    ci, makefile = (ROOT / ".ci" / "run").read_text(), (ROOT / "Makefile").read_text()
    for command in MADE_BY_CI:
        assert command in commands()
        assert command in ci
        assert f"\n{command.split()[1]}:" in makefile


@pytest.mark.slow
def test_every_command_runs_in_the_order_in_which_it_stands(folder: Path) -> None:
    for command in commands():
        if command not in MADE_BY_CI | INSTALLED_BY_CI:
            run(command, folder)
    assert len(list((folder / "again").rglob("*.flac"))) == RECORDINGS


@pytest.mark.slow
def test_every_python_block_runs(folder: Path) -> None:
    for block in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"


def test_the_layout_is_as_described() -> None:
    described = set(re.findall(r"^\| `(\w+)/` \|", CONTRIBUTING, flags=re.MULTILINE))
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.splitlines()
    assert described == folders & {name.split("/")[0] for name in tracked}


def test_it_is_short() -> None:
    assert len(README.split()) <= 1300


def test_every_command_of_the_readme_exists() -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "codecvq", "--help"], capture_output=True, text=True, check=True
    ).stdout
    used = {command.split()[1] for command in commands() if command.startswith("codecvq")}
    assert used <= set(re.findall(r"│ (\S+)", help_text)) | set(
        re.findall(r"^\s+(\w[\w-]*)\s\s", help_text, flags=re.MULTILINE)
    )

"""The command as a process: closed pipes, full devices, and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from codecvq.audio import read_audio, write_audio
from codecvq.bitstream import write_cvq
from codecvq.codec import Codec, load

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and descriptors as POSIX has them")
COMMAND = [sys.executable, "-m", "codecvq"]
CLIPS = 3000  # enough that a job is still at work when the signal comes


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = {"name": "spectral", "hop_length": 160, "window_length": 320, "num_mels": 20, "dim": 8}
    network |= {
        f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in (("width", 16), ("blocks", 1))
    }
    quantizer = {"name": "vq", "codebook_size": 16}
    made = Codec(sample_rate=16_000, network=network, quantizer=quantizer, name="tiny").eval()
    return made.save(tmp_path_factory.mktemp("codec") / "tiny")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of clips of half a second."""
    folder = tmp_path_factory.mktemp("many")
    first = write_audio(folder / "0000.wav", 0.1 * np.sin(np.arange(8000) / 9), 16_000)
    for i in range(1, CLIPS):
        (folder / f"{i:04d}.wav").hardlink_to(first)
    return folder


def shell(line: str, *words: object) -> subprocess.CompletedProcess[str]:
    """bash's `line`, in which "$@" is codecvq with these words."""
    command = ["bash", "-c", line, "bash", *COMMAND, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_full_stdout_is_one_line() -> None:
    done = shell('"$@" > /dev/full', "recipes", "list")
    assert (done.returncode, done.stderr) == (2, "error: standard output: No space left on device\n")


SLOW = pytest.mark.slow  # seconds each, since torch is loaded; the others of their kind run always


@pytest.mark.parametrize(
    "stream", ["2>&-", pytest.param("2>/dev/full", marks=SLOW), pytest.param("2> >(true)", marks=SLOW)]
)
def test_without_stderr_it_works_as_with_it(stream: str, codec: Path, many: Path, tmp_path: Path) -> None:
    done = shell(f'"$@" {stream}', "encode", codec, many / "0001.wav", "-o", tmp_path / "out", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["done"] == 1
    # a file that got a closed stream's descriptor would hold what was printed
    assert (tmp_path / "out" / "0001.cvq").read_bytes()[:4] != b"file"


@pytest.mark.parametrize(
    "stream",
    [">&-", pytest.param("| head -1", marks=SLOW), pytest.param("2>&1 >&- | head -c 1", marks=SLOW)],
)
def test_a_closed_stdout_is_no_error_and_files_are_written(
    stream: str, codec: Path, many: Path, tmp_path: Path
) -> None:
    files = [many / f"{i:04d}.wav" for i in range(4)]
    done = shell(f'"$@" {stream}; exit ${{PIPESTATUS[0]}}', "encode", codec, *files, "-o", tmp_path / "out")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "out").glob("*.cvq"))) == 4


@pytest.mark.parametrize("arguments", [["recipes", "list"], ["--help"], ["plugins", "list"]], ids=" ".join)
def test_lists_into_a_closed_pipe_are_no_error(arguments: list[str]) -> None:
    done = shell('"$@" | true; exit ${PIPESTATUS[0]}', *arguments)
    assert (done.returncode, done.stderr) == (0, "")


def stopped(number: int, *words: object) -> tuple[int, str]:
    """Exit code and stderr of codecvq that got a signal once it had shown progress."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(number)
    rest = process.communicate(timeout=60)[1]
    return process.returncode, first + rest


def test_ctrl_c_says_what_stays_and_files_are_whole(codec: Path, many: Path, tmp_path: Path) -> None:
    code, said = stopped(signal.SIGINT, "encode", codec, many, "-o", tmp_path / "out")
    assert code == 130
    assert said.splitlines()[-1] == "interrupted: all files written until now are complete"
    assert "Traceback" not in said
    written = sorted((tmp_path / "out").iterdir())
    assert 1 <= len(written) < CLIPS
    assert all(path.suffix == ".cvq" and not path.name.startswith(".") for path in written)
    done = shell('"$@"', "decode", codec, written[-1], "-o", tmp_path / "back")
    assert done.returncode == 0
    assert read_audio(tmp_path / "back" / written[-1].with_suffix(".wav").name).samples.shape == (1, 8000)


@pytest.mark.slow
def test_sigterm_ends_cleanly_with_143(codec: Path, many: Path, tmp_path: Path) -> None:
    code, said = stopped(signal.SIGTERM, "tokenize", codec, many, "-o", tmp_path / "out")
    assert code == 143
    hint = "run the same command again to resume after the last shard"
    assert said.splitlines()[-1] == f"terminated by SIGTERM: {hint}"
    assert "Traceback" not in said
    assert not [path for path in (tmp_path / "out").rglob(".*") if path.suffix == ".parquet"]


@pytest.mark.slow
def test_an_ignored_hangup_stays_ignored(codec: Path, many: Path, tmp_path: Path) -> None:
    command = ["nohup", *COMMAND, "encode", str(codec), *(str(many / f"{i:04d}.wav") for i in range(200))]
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "out")], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_what_cannot_be_written_is_listed_and_the_rest_goes_on(codec: Path, tmp_path: Path) -> None:
    made, loaded = tmp_path / "made", load(codec)
    made.mkdir()
    for name, samples in (("long", 32_000), ("short", 8000)):
        write_cvq(made / f"{name}.cvq", loaded, loaded.encode(torch.zeros(1, 1, samples))[0], samples)
    # a limit on file sizes stands for a full disk, which has another number: 16 kB are written, 64 kB are not
    done = shell('ulimit -f 20; "$@"', "decode", codec, made, "-o", tmp_path / "out", "--json")
    said = json.loads(done.stdout)
    assert (done.returncode, said["done"], said["failed"], said["stopped"]) == (1, 1, 1, "")
    assert said["failures"] == [
        {"source": str(made / "long.cvq"), "error": f"{tmp_path / 'out' / 'long.wav'}: File too large"}
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["short.wav"]
    assert "Traceback" not in done.stderr

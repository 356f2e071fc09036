"""The command line as a process: closed pipes, full devices and signals."""

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

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and descriptors")
COMMAND = [sys.executable, "-m", "codecvq"]
CLIPS = 3000  # enough that the command still runs when the signal arrives


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
def clips_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of CLIPS clips of half a second."""
    folder = tmp_path_factory.mktemp("many")
    first = write_audio(folder / "0000.wav", 0.1 * np.sin(np.arange(8000) / 9), 16_000)
    for i in range(1, CLIPS):
        (folder / f"{i:04d}.wav").hardlink_to(first)
    return folder


def shell(line: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the bash command `line`, in which "$@" is codecvq with these arguments."""
    command = ["bash", "-c", line, "bash", *COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_full_stdout_prints_one_line() -> None:
    done = shell('"$@" > /dev/full', "recipes", "list")
    assert (done.returncode, done.stderr) == (2, "error: standard output: No space left on device\n")


SLOW = pytest.mark.slow  # takes seconds, because it loads torch


@pytest.mark.parametrize(
    "stream", ["2>&-", pytest.param("2>/dev/full", marks=SLOW), pytest.param("2> >(true)", marks=SLOW)]
)
def test_encode_works_without_stderr(stream: str, codec: Path, clips_folder: Path, tmp_path: Path) -> None:
    done = shell(
        f'"$@" {stream}', "encode", codec, clips_folder / "0001.wav", "-o", tmp_path / "out", "--json"
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["done"] == 1
    # A file with the descriptor of a closed stream would contain printed text.
    assert (tmp_path / "out" / "0001.cvq").read_bytes()[:4] != b"file"


@pytest.mark.parametrize(
    "stream",
    [">&-", pytest.param("| head -1", marks=SLOW), pytest.param("2>&1 >&- | head -c 1", marks=SLOW)],
)
def test_encode_writes_files_if_stdout_is_closed(
    stream: str, codec: Path, clips_folder: Path, tmp_path: Path
) -> None:
    files = [clips_folder / f"{i:04d}.wav" for i in range(4)]
    done = shell(f'"$@" {stream}; exit ${{PIPESTATUS[0]}}', "encode", codec, *files, "-o", tmp_path / "out")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "out").glob("*.cvq"))) == 4


@pytest.mark.parametrize("arguments", [["recipes", "list"], ["--help"], ["plugins", "list"]], ids=" ".join)
def test_lists_exit_with_0_on_a_closed_pipe(arguments: list[str]) -> None:
    done = shell('"$@" | true; exit ${PIPESTATUS[0]}', *arguments)
    assert (done.returncode, done.stderr) == (0, "")


def run_and_signal(number: int, *arguments: object) -> tuple[int, str]:
    """Send a signal to codecvq after its first line of progress. Returns exit code and stderr."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(number)
    rest = process.communicate(timeout=60)[1]
    return process.returncode, first + rest


def test_ctrl_c_exits_with_130_and_leaves_complete_files(
    codec: Path, clips_folder: Path, tmp_path: Path
) -> None:
    code, stderr = run_and_signal(signal.SIGINT, "encode", codec, clips_folder, "-o", tmp_path / "out")
    assert code == 130
    assert stderr.splitlines()[-1] == "interrupted: all files written until now are complete"
    assert "Traceback" not in stderr
    written = sorted((tmp_path / "out").iterdir())
    assert 1 <= len(written) < CLIPS
    assert all(path.suffix == ".cvq" and not path.name.startswith(".") for path in written)
    done = shell('"$@"', "decode", codec, written[-1], "-o", tmp_path / "back")
    assert done.returncode == 0
    assert read_audio(tmp_path / "back" / written[-1].with_suffix(".wav").name).samples.shape == (1, 8000)


@pytest.mark.slow
def test_sigterm_exits_with_143_and_leaves_no_temporary_files(
    codec: Path, clips_folder: Path, tmp_path: Path
) -> None:
    code, stderr = run_and_signal(signal.SIGTERM, "tokenize", codec, clips_folder, "-o", tmp_path / "out")
    assert code == 143
    hint = "run the same command again to resume after the last shard"
    assert stderr.splitlines()[-1] == f"terminated by SIGTERM: {hint}"
    assert "Traceback" not in stderr
    assert not [path for path in (tmp_path / "out").rglob(".*") if path.suffix == ".parquet"]


@pytest.mark.slow
def test_nohup_ignores_sighup(codec: Path, clips_folder: Path, tmp_path: Path) -> None:
    command = [
        "nohup",
        *COMMAND,
        "encode",
        str(codec),
        *(str(clips_folder / f"{i:04d}.wav") for i in range(200)),
    ]
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "out")], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_unwritable_files_are_reported_and_others_are_written(codec: Path, tmp_path: Path) -> None:
    folder, loaded = tmp_path / "made", load(codec)
    folder.mkdir()
    for name, samples in (("long", 32_000), ("short", 8000)):
        write_cvq(folder / f"{name}.cvq", loaded, loaded.encode(torch.zeros(1, 1, samples))[0], samples)
    # The file size limit simulates a full disk (the errno differs): 16 kB are written, 64 kB are not.
    done = shell('ulimit -f 20; "$@"', "decode", codec, folder, "-o", tmp_path / "out", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["done"], report["failed"], report["stopped"]) == (1, 1, 1, "")
    assert report["failures"] == [
        {"source": str(folder / "long.cvq"), "error": f"{tmp_path / 'out' / 'long.wav'}: File too large"}
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["short.wav"]
    assert "Traceback" not in done.stderr

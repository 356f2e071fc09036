"""Peak memory and processor time of the commands by the length of a recording.

python benchmarks/long_recordings.py [--codec speech-16k] [--minutes 1 60 600] [--commands encode decode …]

The recording repeats the bundled prompts, at 24 kHz, so that it is resampled. Each command runs in a process
of its own. `MiB` is the peak of its resident memory, `s per s` its processor time per second of audio.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from codecvq.audio import audio_file
from codecvq.data import open_corpus

RATE = 24_000
COMMANDS = ("encode", "decode", "part", "tokenize", "pieces", "detokenize", "evaluate", "compare")


def make_recording(path: Path, minutes: float) -> float:
    """Write the prompts repeatedly, each time with other gains, and return the duration in seconds."""
    clips = [clip.read(RATE) for clip in open_corpus("prompts")]
    random = np.random.default_rng(0)
    left = round(minutes * 60 * RATE)
    with audio_file(path, RATE) as file:
        while left:
            clip = clips[random.integers(len(clips))][:left]
            file.write(clip * random.uniform(0.3, 1.0))
            left -= clip.size
    return file.samples / RATE


def arguments(command: str, codec: str, folder: Path, seconds: float) -> list[str]:
    """Arguments of codecvq for one row of the table."""
    recordings, coded, tokens = folder / "recordings", folder / "coded", folder / "tokens"
    late = [f"--from={0.9 * seconds}", f"--to={0.9 * seconds + 5}"]
    return {
        "encode": ["encode", codec, str(recordings), "--out", str(coded)],
        "decode": ["decode", codec, str(coded), "--out", str(folder / "decoded"), "--suffix", ".flac"],
        "part": ["decode", codec, str(coded), "--out", str(folder / "part"), *late],
        "tokenize": ["tokenize", codec, str(recordings), "--out", str(tokens)],
        "pieces": ["tokenize", codec, str(recordings), "--out", str(folder / "cut"), "--max-seconds", "30"],
        "detokenize": ["detokenize", codec, str(tokens), "--out", str(folder / "wavs")],
        "evaluate": [
            "evaluate", codec, str(recordings), "--split", "all", "--metrics", "stoi,mel_distance", "--out",
            str(folder / "evaluation"),
        ],
        "compare": [
            "compare", codec, "--data", str(recordings), "--split", "all", "--metrics", "stoi,mel_distance",
            "--out", str(folder / "comparison"),
        ],
    }[command]  # fmt: skip


def run(command: list[str]) -> tuple[float, float]:
    """Run codecvq, and return its peak memory in MiB and its processor time in seconds."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "codecvq", *command], stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"codecvq {' '.join(command)} failed:\n{output.read().decode()}")
    return usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def measure(codec: str, minutes: float, commands: list[str], folder: Path) -> None:
    """Print one row for each command."""
    (folder / "recordings").mkdir()
    seconds = make_recording(folder / "recordings" / "long.flac", minutes)
    for command in commands:
        peak, taken = run(arguments(command, codec, folder, seconds))
        print(f"| {command} | {minutes:g} min | {peak:.0f} | {taken / seconds:.4f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codec", default="speech-16k")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 60.0])
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    options = parser.parse_args()
    print("| command | recording | MiB | s per s |\n|---|---|---|---|", flush=True)
    for length in options.minutes:
        with tempfile.TemporaryDirectory() as temporary:
            measure(options.codec, length, options.commands, Path(temporary))

"""Seconds per step of quickstart with two threads, alone and next to a busy loop, by OpenMP setting.

python benchmarks/busy_core.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

SETTINGS = {
    "default": {},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}
OVERRIDES = (
    "training.steps=15", "training.log_every=5", "training.validation_clips=0", "training.threads=2",
)  # fmt: skip


def seconds_a_step(setting: dict[str, str], busy: bool) -> float:
    """Median seconds per step over the log rows of a short training."""
    with tempfile.TemporaryDirectory() as folder:
        loop = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
        try:
            command = [
                sys.executable,
                "-m",
                "codecvq",
                "train",
                "quickstart",
                *OVERRIDES,
                "--run",
                f"{folder}/run",
            ]
            subprocess.run(command, env={**os.environ, **setting}, capture_output=True, check=True)
        finally:
            if loop is not None:
                loop.kill()
                loop.wait()
        rows = map(json.loads, Path(folder, "run", "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        return median(1 / row["speed/steps_per_s"] for row in rows if row["step"] >= 5)


if __name__ == "__main__":
    base = seconds_a_step({}, busy=False)
    for busy in (False, True):
        for name, setting in SETTINGS.items():
            taken = seconds_a_step(setting, busy)
            where = "next to a busy loop" if busy else "alone"
            print(
                f"{where}, {name}: {taken:.2f} s per step, {taken / base:.2f} times the default alone",
                flush=True,
            )

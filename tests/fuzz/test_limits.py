"""The limits of the fuzzers work."""

from __future__ import annotations

import os
import signal

from limits import run_limited


def misbehaving(seed: int) -> None:
    if seed == 1:
        raise ValueError("one")
    if seed == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == 5:
        bytearray(3 << 30)
    if seed == 7:
        while True:
            pass


def test_every_kind_of_failure_is_reported_and_later_cases_run() -> None:
    problems = run_limited(misbehaving, 10, memory_bytes=1 << 30, seconds=1)
    assert [problem.partition(":")[0] for problem in problems] == ["seed 1", "seed 3", "seed 5", "seed 7"]
    assert "MemoryError" in problems[2]

"""System programs: availability, version, and running them on files."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from codecvq.errors import CodecError, MissingProgram

TIMEOUT_S = 600  # for one program run on one clip


def require_programs(codec: str, programs: Sequence[str], package: str) -> None:
    """Raise MissingProgram for the first of the programs that is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            advice = f"apt-get install {package}, or the same package of your system"
            raise MissingProgram(f"codec {codec!r}", program, advice)


def run_program(command: Sequence[str | Path]) -> str:
    """Run a program and return its stdout and stderr.

    Raises CodecError with the last line of output if the program fails, and if it exceeds the time limit.
    """
    try:
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CodecError(f"{command[0]} did not end within {TIMEOUT_S} s. Use shorter clips.") from error
    output = (done.stdout + done.stderr).decode(errors="replace").strip()
    if done.returncode:
        last = output.splitlines()[-1] if output else "no output"
        raise CodecError(f"{command[0]} ended with code {done.returncode}: {last}")
    return output


def version_of(command: Sequence[str], pattern: str) -> str:
    """The version in a program's output: the first group of `pattern`, or "unknown"."""
    match = re.search(pattern, run_program(command))
    return match.group(1) if match else "unknown"


def package_version(package: str) -> str:
    """The version of a Debian package, for programs that do not print theirs; "unknown" on other systems."""
    if shutil.which("dpkg-query") is None:
        return "unknown"
    try:
        return run_program(["dpkg-query", "--show", "--showformat", "${Version}", package])
    except CodecError:  # the program was not installed as a package
        return "unknown"

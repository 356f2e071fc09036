"""Programs of the system: whether they are there, which version, and running them on files."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from codecvq.errors import CodecError, MissingProgram

TIMEOUT_S = 600  # of a program on one clip: by then it hangs


def require_programs(codec: str, programs: Sequence[str], package: str) -> None:
    """Raises MissingProgram for the first of the programs that is not there."""
    for program in programs:
        if shutil.which(program) is None:
            raise MissingProgram(f"codec {codec!r}", program, f"apt-get install {package}, or your system's")


def run_program(command: Sequence[str | Path]) -> str:
    """What a program output on stdout and stderr; raises CodecError with its last line when it failed."""
    try:
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CodecError(f"{command[0]} did not end within {TIMEOUT_S} s. Give shorter clips.") from error
    output = (done.stdout + done.stderr).decode(errors="replace").strip()
    if done.returncode:
        last = output.splitlines()[-1] if output else "without a word"
        raise CodecError(f"{command[0]} ended with code {done.returncode}: {last}")
    return output


def version_of(command: Sequence[str], pattern: str) -> str:
    """The version that a program tells: the first group of `pattern` in what it says, or "unknown"."""
    match = re.search(pattern, run_program(command))
    return match.group(1) if match else "unknown"


def package_version(package: str) -> str:
    """The version of a Debian package, for programs that do not tell their own; "unknown" elsewhere."""
    if shutil.which("dpkg-query") is None:
        return "unknown"
    try:
        return run_program(["dpkg-query", "--show", "--showformat", "${Version}", package])
    except CodecError:  # the program came by another way
        return "unknown"

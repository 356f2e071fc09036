"""Files that are either whole or not there: written under another name in the same folder, synced, then
renamed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what was written there takes the name of `path` when the block ends
    without an error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_unfinished(path)}{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def leftovers(path: Path) -> list[Path]:
    """What killed processes left of `path`, half written."""
    return list(path.parent.glob(f"{_unfinished(path)}*{path.suffix}"))


def _unfinished(path: Path) -> str:
    """How the name of a file begins while it is written."""
    return f".{path.stem}."


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` to `path`: a process killed at any moment leaves the old file or the new one."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

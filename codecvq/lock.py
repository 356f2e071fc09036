"""Locks that prevent two processes from writing the same folder."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codecvq.errors import FolderInUse

try:
    import fcntl
except ImportError:  # Windows: folders are not locked
    fcntl = None  # type: ignore[assignment]

_MAX_BYTES = 1000  # read from a lock file


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Context manager that holds a lock on the file `path`; `what` names the folder in errors.

    Raises FolderInUse, which names the holder, if another process has the lock. The lock belongs to the
    process: the system releases it when the process ends, and forked workers do not inherit it. The file is
    not removed and names the last holder. On Windows and on filesystems without locks, nothing is locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        _acquire(descriptor, path, what)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, what: str) -> None:
    if fcntl is None:
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise FolderInUse(
            f"{what} {path.parent} is in use by {_holder(descriptor)}. Wait for it, stop it, or give another "
            "folder."
        ) from error
    except OSError:  # a filesystem without locks
        return
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode() + b"\n", 0)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, _MAX_BYTES, 0))
        return f"process {int(holder['pid'])} on {str(holder['host'])!r} since {str(holder['since'])[:19]!r}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"

"""The lock of a folder, which only one process may write to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from codecvq.errors import FolderInUse
from codecvq.lock import locked

HOLDER = """
import pathlib, sys, time
from codecvq.lock import locked
with locked(pathlib.Path(sys.argv[1]), "run"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with (
            pytest.raises(FolderInUse, match=rf"run .* is in use by process {holder.pid} on"),
            locked(path, "run"),
        ):
            pass
        os.kill(holder.pid, signal.SIGKILL)
    with locked(path, "run"):
        assert str(os.getpid()) in path.read_text()


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    (tmp_path / ".lock").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"), locked(tmp_path / ".lock", "run"):
        pass
    assert target.read_bytes() == b"precious"

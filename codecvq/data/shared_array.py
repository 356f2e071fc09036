"""`SharedArray`: an array that other processes memory-map instead of copying."""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SMALL_BYTES = 1 << 16  # arrays up to this size are pickled by value


class SharedArray:
    """An array that is pickled as a memory-mapped file: all processes of a machine share its pages.

    The file is removed when the array that was pickled is garbage-collected or its process ends.
    """

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self.values = values
        self._path: Path | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Callable[..., SharedArray], tuple[Any, ...]]:
        if self.values.nbytes <= SMALL_BYTES:
            return SharedArray, (np.array(self.values),)
        return _load_mapped, (str(self._write()),)

    def _write(self) -> Path:
        with self._lock:
            if self._path is None:
                self._path = temporary_file(self, ".npy")
                with self._path.open("wb") as file:
                    np.save(file, self.values, allow_pickle=False)
            return self._path


def temporary_file(owner: object, suffix: str) -> Path:
    """Create an empty file that only this user can open.

    It is removed when `owner` is garbage-collected or this process ends.
    """
    descriptor, name = tempfile.mkstemp(prefix="codecvq-", suffix=suffix)
    os.close(descriptor)
    weakref.finalize(owner, _remove, Path(name), os.getpid())
    return Path(name)


def _remove(path: Path, pid: int) -> None:
    if os.getpid() == pid:  # forked processes inherit the finalizers
        path.unlink(missing_ok=True)


def _load_mapped(path: str) -> SharedArray:
    return SharedArray(np.load(path, mmap_mode="r", allow_pickle=False))

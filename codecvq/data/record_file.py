"""A file that is read from given places on, by several threads and processes at once."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

PIECE = 1 << 13  # bytes that are read at a time
MOST_LINE_BYTES = 1 << 24


class RecordFile:
    """An open file. It stays readable where another file takes its name, or it is removed.

    Sent to another process, it is opened there by its path.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()
        weakref.finalize(self, os.close, self._descriptor)

    def __reduce__(self) -> tuple[Callable[[Path], RecordFile], tuple[Path]]:
        return RecordFile, (self.path,)

    def read(self, at: int, size: int) -> bytes:
        """Up to `size` bytes from byte `at` on; fewer at the end of the file."""
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, size, at)
        with self._lock:
            os.lseek(self._descriptor, at, os.SEEK_SET)
            return os.read(self._descriptor, size)

    def lines(self, at: int = 0) -> Iterator[tuple[int, bytes]]:
        """Place and bytes of each line from byte `at` on. Lines end with a line feed, a carriage return, or
        both. Raises ValueError for a line of more than `MOST_LINE_BYTES`.
        """
        rest = b""
        while True:
            piece = self.read(at + len(rest), max(PIECE, len(rest)))
            *whole, rest = (rest + piece).splitlines(keepends=True) if piece else (rest,)
            if not piece or rest.endswith(b"\n"):  # a carriage return may be half of a line's end
                whole, rest = [*whole, rest] if rest else whole, b""
            for line in whole:
                yield at, line
                at += len(line)
            if len(rest) > MOST_LINE_BYTES:
                raise ValueError(f"a line of it has more than {MOST_LINE_BYTES >> 20} MiB")
            if not piece:
                return

"""`RecordFile`: reading a file from given offsets, by several threads and processes at once."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

READ_BYTES = 1 << 13  # bytes read at a time
MAX_LINE_BYTES = 1 << 24


class RecordFile:
    """An open file that stays readable after its path is removed or replaced.

    Pickling stores only the path: unpickling opens the file that is at the path then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()
        weakref.finalize(self, os.close, self._descriptor)

    def __reduce__(self) -> tuple[Callable[[Path], RecordFile], tuple[Path]]:
        return RecordFile, (self.path,)

    def read(self, offset: int, size: int) -> bytes:
        """Read up to `size` bytes from byte `offset`; fewer at the end of the file."""
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, size, offset)
        with self._lock:
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, size)

    def lines(self, offset: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield the offset and the bytes of each line from byte `offset`, with the end of the line.

        Lines end with a line feed, a carriage return, or both. Raises ValueError for a line of more than
        `MAX_LINE_BYTES`.
        """
        rest = b""
        while True:
            block = self.read(offset + len(rest), max(READ_BYTES, len(rest)))
            *whole, rest = (rest + block).splitlines(keepends=True) if block else (rest,)
            if not block or rest.endswith(b"\n"):  # a carriage return may be the first half of a line end
                whole, rest = [*whole, rest] if rest else whole, b""
            for line in whole:
                yield offset, line
                offset += len(line)
            if len(rest) > MAX_LINE_BYTES:
                raise ValueError(f"a line of it has more than {MAX_LINE_BYTES >> 20} MiB")
            if not block:
                return

"""Standard output and error that a closed pipe does not end, and that take any text."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO

READER_CLOSED_ERRORS = (errno.EPIPE, errno.EIO)  # nobody reads any more: a closed pipe, a closed terminal


class _Stream(io.FileIO):
    """A file descriptor that takes and drops what is written once nobody reads it any more.

    With `raise_errors`, any other error (a full disk) is raised; without, what cannot be written is dropped.
    """

    def __init__(self, descriptor: int, raise_errors: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.raise_errors = raise_errors

    def write(self, data: Any, /) -> int:  # Any: the buffers that FileIO takes
        """See `io.RawIOBase.write`."""
        try:
            return super().write(data)
        except OSError as error:
            redirect_to_null(self.fileno())
            if self.raise_errors and error.errno not in READER_CLOSED_ERRORS:
                raise OSError(error.errno, error.strerror, "standard output") from error
            return len(data)


def redirect_to_null(descriptor: int) -> None:
    """Let what is written to the descriptor from now on disappear."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)


def open_streams() -> None:
    """Make stdout and stderr streams that outlive their reader.

    A stream that is closed (`>&-`) becomes the null device: a file opened later must not get its descriptor.
    On stdout, an error other than a closed pipe is raised; on stderr all are dropped. What the encoding lacks
    is written as `\\udc80`. Streams that somebody has put in place of Python's own stay.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            redirect_to_null(descriptor)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(1, sys.stdout, raise_errors=True)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(2, sys.stderr, raise_errors=False)


def _text(descriptor: int, old: TextIO | None, raise_errors: bool) -> TextIO:
    if old is not None:
        old.flush()
    raw = _Stream(descriptor, raise_errors)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=old.encoding if old is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=not raise_errors or raw.isatty(),
        write_through=bool(getattr(old, "write_through", False)),
    )

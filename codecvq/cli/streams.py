"""Standard output and error streams that tolerate closed pipes and accept any text."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO

READER_CLOSED_ERRORS = (errno.EPIPE, errno.EIO)  # a closed pipe or terminal


class _Stream(io.FileIO):
    """A file descriptor that discards output after its reader has closed it.

    With `raise_errors`, other errors such as a full disk are raised; without, all errors are ignored.
    """

    def __init__(self, descriptor: int, raise_errors: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.raise_errors = raise_errors

    def write(self, data: Any, /) -> int:  # Any: as in FileIO
        """See `io.RawIOBase.write`."""
        try:
            return super().write(data)
        except OSError as error:
            redirect_to_null(self.fileno())
            if self.raise_errors and error.errno not in READER_CLOSED_ERRORS:
                raise OSError(error.errno, error.strerror, "standard output") from error
            return len(data)


def redirect_to_null(descriptor: int) -> None:
    """Redirect a file descriptor to the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)


def open_streams() -> None:
    """Replace stdout and stderr by streams that tolerate a closed reader.

    A closed stream (`>&-`) is opened as the null device, so that no file opened later gets its descriptor.
    stdout raises all errors except closed pipes; stderr ignores all errors. Characters that the encoding
    lacks are written as `\\udc80`. Streams that have already been replaced are not changed.
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

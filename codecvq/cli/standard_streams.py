"""Standard streams: text that tolerates closed pipes, and binary input and output."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TextIO

from codecvq.errors import CodecvqError
from codecvq.signals import StopSignal

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


class _BinaryInput(io.FileIO):
    """Standard input, which ends when a signal arrives."""

    def __init__(self, stop: StopSignal) -> None:
        super().__init__(0, "rb", closefd=False)
        self._stop = stop

    def read(self, size: int | None = -1, /) -> bytes:
        """See `io.RawIOBase.read`."""
        return self._stop.wait(lambda: io.FileIO.read(self, size), b"")


def binary_input(stop: StopSignal, advice: str) -> BinaryIO:
    """Return standard input without a buffer; it ends when `stop` receives a signal.

    Raises CodecvqError for a terminal; `advice` says what to do.
    """
    if os.isatty(0):
        raise CodecvqError(f"standard input is a terminal. {advice}")
    return _BinaryInput(stop)


@contextmanager
def binary_output(advice: str) -> Iterator[BinaryIO]:
    """Context with standard output as a binary stream without a buffer.

    Inside, text that is printed goes to standard error. Raises CodecvqError for a terminal; `advice` says
    what to do.
    """
    if os.isatty(1):
        raise CodecvqError(f"standard output is a terminal. {advice}")
    sys.stdout.flush()
    descriptor = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(descriptor, "wb", buffering=0, closefd=False) as stream:
            yield stream
    finally:
        sys.stdout.flush()
        os.dup2(descriptor, 1)
        os.close(descriptor)

"""Batch jobs: items are processed separately, and failures do not stop the other items.

`run_batch` is the loop of commands that process files. `BatchResult` is the result of any batch job. It
defines the printed failures, the JSON keys and the exit code.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import typer

from codecvq.cli.console import print_written, progress_line, time_left
from codecvq.errors import CodecvqError
from codecvq.escaping import printable
from codecvq.plugins import PROJECT
from codecvq.plugins.third_party import contained

EXIT_CODES = (
    "Exit codes: 0 success; 1 some items failed, each failure is listed; 2 error, nothing was done or the "
    "command could not continue; 130 interrupted; 143 terminated."
)
MAX_PRINTED = 20  # failures that are printed; --json lists all
MAX_ERROR_LENGTH = 500  # characters of a third-party error; an error of torch can fill pages
#: Errors that would repeat for every further file.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

Item = TypeVar("Item")
logger = logging.getLogger(PROJECT)


@dataclass(frozen=True)
class ItemFailure:
    """A failed item and its error in one line."""

    source: str
    error: str

    def __str__(self) -> str:
        return self.error if self.source in self.error else f"{self.source}: {self.error}"


@dataclass(frozen=True)
class BatchResult:
    """Result of a batch job."""

    done: int
    failures: tuple[ItemFailure, ...] = ()
    not_tried: int = 0  # items left when the job stopped early
    stopped: str = ""  # the error that stopped it

    @property
    def failed(self) -> int:
        """Number of items that were not processed."""
        return len(self.failures) + self.not_tried

    @property
    def exit_code(self) -> int:
        """0 without failures, 1 with some, 2 if all items failed; see `EXIT_CODES`."""
        return 0 if not self.failed else 1 if self.done else 2

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """JSON keys shared by all batch commands."""
        failures = [vars(failure) for failure in self.failures]
        return {"done": self.done, "failed": self.failed, "failures": failures, "stopped": self.stopped}

    def print_failures(self) -> None:
        """Print the failures, and the error if the job stopped early."""
        print_written(*(("failed", str(failure)) for failure in self.failures[:MAX_PRINTED]))
        if len(self.failures) > MAX_PRINTED:
            print_written(("failed", f"{len(self.failures) - MAX_PRINTED} more; --json lists all"))
        if self.stopped:
            print_written(("stopped", f"{self.stopped}; {self.not_tried} items were not processed"))

    def exit_if_failed(self) -> None:
        """Exit with the exit code if it is not 0."""
        if self.exit_code:
            raise typer.Exit(self.exit_code)


def run_batch(
    items: Sequence[Item],
    process: Callable[[Item], dict[str, Any]],  # Any: JSON
    source: Callable[[Item], str],
    failures: Sequence[ItemFailure] = (),
) -> tuple[list[dict[str, Any]], BatchResult]:
    """Call `process` for each item; return its results and the batch result.

    `failures` are failures found earlier. Any exception counts as a failure of the item, since files are
    untrusted and codecs can be third-party code. A full or read-only disk stops the loop, since the next item
    would fail too.
    """
    done, failed, stopped = [], list(failures), ""
    start = time.monotonic()
    with progress_line() as line:
        for count, item in enumerate(items, start=1):
            try:
                with contained():
                    done.append(process(item))
            except Exception as error:  # see above
                failed.append(failure_of(source(item), error))
                stopped = one_line(error) if _would_repeat(error) else ""
            left = time_left(count, len(items), time.monotonic() - start)
            last = bool(stopped) or count == len(items)
            line.show(f"file {count}/{len(items)}  {len(failed)} failed  {left} left", final=last)
            if stopped:
                break
    not_tried = len(items) + len(failures) - len(done) - len(failed)
    return done, BatchResult(len(done), tuple(failed), not_tried, stopped)


def failure_of(source: str, error: Exception) -> ItemFailure:
    """Convert an exception to a failure. With --debug, logs the traceback of unexpected errors."""
    if not isinstance(error, CodecvqError):
        logger.debug("%s failed", source, exc_info=error)
    return ItemFailure(source, one_line(error))


def one_line(error: BaseException) -> str:
    """Text of an error without line breaks; unexpected errors are prefixed with their type."""
    text = printable(" ".join(str(error).split()))
    if isinstance(error, CodecvqError):
        return text
    if isinstance(error, OSError) and error.strerror:
        return f"{printable(str(error.filename))}: {error.strerror}" if error.filename else error.strerror
    if is_out_of_memory(error):
        return f"out of memory ({text[:MAX_ERROR_LENGTH] or type(error).__name__})"
    return f"{type(error).__name__}: {text[:MAX_ERROR_LENGTH]}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is an out-of-memory error of Python, or of torch on CPU or GPU; does not import torch."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def _would_repeat(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in DISK_ERRORS

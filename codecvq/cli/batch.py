"""Jobs of many items: each is done by itself, what fails is listed, and the rest goes on.

`run_batch` is the loop of the verbs that work file by file. `BatchResult` is how any job of many items
ended: all such verbs print it, put it into their JSON and make their exit code of it in the same way.
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
    "Exit codes of every verb: 0 all was done; 1 some of it failed, and each failure is listed and counted; "
    "2 nothing could be done, or it could not go on, and a line says why; 130 interrupted; 143 terminated."
)
MAX_PRINTED = 20  # failures that are printed; --json has all
MAX_ERROR_LENGTH = 500  # characters of an error that is not ours: those of torch can fill pages
#: Errors of writing that the next file would have too.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

Item = TypeVar("Item")
logger = logging.getLogger(PROJECT)


@dataclass(frozen=True)
class ItemFailure:
    """One item that failed, and why, in one line."""

    source: str
    error: str

    def __str__(self) -> str:
        return self.error if self.source in self.error else f"{self.source}: {self.error}"


@dataclass(frozen=True)
class BatchResult:
    """How a job of many items ended."""

    done: int
    failures: tuple[ItemFailure, ...] = ()
    not_tried: int = 0  # items left when the job had to stop
    stopped: str = ""  # why it had to stop

    @property
    def failed(self) -> int:
        """How many items were not done."""
        return len(self.failures) + self.not_tried

    @property
    def exit_code(self) -> int:
        """0 for no failure, 1 for some, 2 where nothing was done; see `EXIT_CODES`."""
        return 0 if not self.failed else 1 if self.done else 2

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """The keys that the JSON of every such verb has."""
        failures = [vars(failure) for failure in self.failures]
        return {"done": self.done, "failed": self.failed, "failures": failures, "stopped": self.stopped}

    def print_failures(self) -> None:
        """Print the failures, and why the job stopped early."""
        print_written(*(("failed", str(failure)) for failure in self.failures[:MAX_PRINTED]))
        if len(self.failures) > MAX_PRINTED:
            print_written(("failed", f"{len(self.failures) - MAX_PRINTED} more; --json lists all"))
        if self.stopped:
            print_written(("stopped", f"{self.stopped}; {self.not_tried} were not tried"))

    def exit_if_failed(self) -> None:
        """End the verb with the exit code, if it is not 0."""
        if self.exit_code:
            raise typer.Exit(self.exit_code)


def run_batch(
    items: Sequence[Item],
    process: Callable[[Item], dict[str, Any]],  # Any: JSON
    source: Callable[[Item], str],
    failures: Sequence[ItemFailure] = (),
) -> tuple[list[dict[str, Any]], BatchResult]:
    """What `one` gave for each item, and how all of it ended; `failures` are those found before.

    Any exception of an item is its failure: files may be anything, and codecs are strangers' code. A full or
    read-only disk ends the loop, since the next item would fail too.
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
    """The failure of an item; --debug logs the traceback of an error that is not a user's."""
    if not isinstance(error, CodecvqError):
        logger.debug("%s failed", source, exc_info=error)
    return ItemFailure(source, one_line(error))


def one_line(error: BaseException) -> str:
    """The text of an error without line breaks: a user's error as it is, another with its kind."""
    text = printable(" ".join(str(error).split()))
    if isinstance(error, CodecvqError):
        return text
    if isinstance(error, OSError) and error.strerror:
        return f"{printable(str(error.filename))}: {error.strerror}" if error.filename else error.strerror
    if is_out_of_memory(error):
        return f"there is not enough memory ({text[:MAX_ERROR_LENGTH] or type(error).__name__})"
    return f"{type(error).__name__}: {text[:MAX_ERROR_LENGTH]}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is Python's error of memory, or torch's for a processor or a device; imports no torch."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def _would_repeat(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in DISK_ERRORS

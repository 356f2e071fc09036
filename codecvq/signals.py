"""Signals that end a process: as an exception, or as a request to stop at a suitable moment.

A stopped job then cleans up like a failed one: it removes temporary files, releases locks and saves its
state.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(BaseException):
    """The process received SIGTERM or SIGHUP. `except Exception` does not catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number  # the exit code that a shell reports for this signal


@contextmanager
def termination_raises() -> Iterator[None]:
    """Context manager: SIGTERM and SIGHUP raise `Terminated` in the main thread.

    A signal that already has a handler or is ignored (nohup) stays unchanged. Forked processes end
    immediately.
    """
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            raise Terminated(number)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    main = threading.current_thread() is threading.main_thread()  # other threads cannot set handlers
    replaced = [number for number in SIGNALS if main and signal.getsignal(number) is signal.SIG_DFL]
    for number in replaced:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, signal.SIG_DFL)


class _WaitEnded(KeyboardInterrupt):
    """A signal arrived during `StopSignal.wait`."""


class StopSignal:
    """The signal (SIGINT, SIGTERM or SIGHUP) that the process received, if any."""

    def __init__(self) -> None:
        self.number = 0  # 0: none
        self._is_waiting = False

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Context that records the first signal. A second signal calls the earlier handler.

        Ignored signals (nohup) stay ignored. Works only in the main thread; has no effect in other threads.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        owner, before = os.getpid(), dict[int, Any]()  # Any: handlers of the signal module

        def handle(number: int, frame: FrameType | None) -> None:
            if os.getpid() == owner and not self.number:
                self.number = number
                if self._is_waiting:
                    self._is_waiting = False
                    raise _WaitEnded
                return
            again = before[number]
            if os.getpid() != owner:  # in a worker process: ignore Ctrl-C, the parent ends the worker
                again = signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, again)
            os.kill(os.getpid(), number)

        for number in (signal.SIGINT, *SIGNALS):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def wait(self, function: Callable[[], Result], stopped: Result) -> Result:
        """Return the result of a blocking function, or `stopped` if a signal has arrived or arrives."""
        self._is_waiting = True
        try:
            return stopped if self.number else function()
        except _WaitEnded:
            return stopped
        finally:
            self._is_waiting = False

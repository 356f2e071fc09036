"""Turns SIGTERM and SIGHUP into an exception.

A stopped job then cleans up like a failed one: it removes temporary files, releases locks and saves its
state.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

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

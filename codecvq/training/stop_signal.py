"""Handling of Ctrl-C and SIGTERM: the training completes the current step and saves a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class TrainingStopped(KeyboardInterrupt):
    """Raised when a signal ends a training early. `saved` is the step of its last checkpoint."""

    def __init__(self, number: int, step: int, saved: int, is_main: bool) -> None:
        next_run = f"resumes after step {saved}" if saved else "starts again, since no checkpoint was saved"
        super().__init__(f"stopped after {step} steps. The same command {next_run}.")
        self.exit_code = 128 + number  # the exit code that a shell reports for a process killed by the signal
        self.is_main = is_main  # whether this is the main process, which prints


class StopSignal:
    """The signal received by the process, if any."""

    def __init__(self) -> None:
        self.number = 0  # 0: none

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
                return
            again = before[number]
            if os.getpid() != owner:  # in a worker process: ignore Ctrl-C, the parent ends the worker
                again = signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, again)
            os.kill(os.getpid(), number)

        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

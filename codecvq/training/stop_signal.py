"""Ctrl-C and SIGTERM in a training: it ends after the step that it is in, with a checkpoint."""

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
    """A training ended early, since its process was asked to. `saved` is the step of its last checkpoint."""

    def __init__(self, number: int, step: int, saved: int, is_main: bool) -> None:
        next_run = f"goes on after step {saved}" if saved else "begins again: no step was saved"
        super().__init__(f"stopped after {step} steps. The same command {next_run}.")
        self.exit_code = 128 + number  # what a shell reports for a process that the signal killed
        self.is_main = is_main  # whether this is the process of the training that prints


class StopSignal:
    """Which signal asked for an end, if any."""

    def __init__(self) -> None:
        self.number = 0  # none so far

    @contextmanager
    def watch(self) -> Iterator[None]:
        """A block in which the first signal is noted, and a second one does what it did before the block.

        Signals that are ignored (nohup) stay so. Only the main thread may watch; others note nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        owner, before = os.getpid(), dict[int, Any]()  # Any: what `signal` calls a handler

        def handle(number: int, frame: FrameType | None) -> None:
            if os.getpid() == owner and not self.number:
                self.number = number
                return
            again = before[number]
            if os.getpid() != owner:  # a worker process: Ctrl-C comes to it too, and its end is not its own
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

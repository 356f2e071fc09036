"""`TrainingStopped`: Ctrl-C or SIGTERM ended a training after a completed step and a saved checkpoint."""

from __future__ import annotations


class TrainingStopped(KeyboardInterrupt):
    """Raised when a signal ends a training early. `saved` is the step of its last checkpoint."""

    def __init__(self, number: int, step: int, saved: int, is_main: bool) -> None:
        next_run = f"resumes after step {saved}" if saved else "starts again, since no checkpoint was saved"
        super().__init__(f"stopped after {step} steps. The same command {next_run}.")
        self.exit_code = 128 + number  # the exit code that a shell reports for a process killed by the signal
        self.is_main = is_main  # whether this is the main process, which prints

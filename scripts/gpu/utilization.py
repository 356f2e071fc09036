"""Utilization of a device: sampled from the driver of a GPU, computed from processor time on a CPU."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import torch

INTERVAL_S = 0.1


class Utilization:
    """Context manager that measures utilization: `share` is 0 … 1, or None if the driver does not report it.

    On a GPU it is the share of time in which a kernel ran. On a CPU it is relative to torch's threads.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.share = device, None
        self.seconds = 0.0
        self._samples: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Utilization:
        self._wall, self._used = time.perf_counter(), time.process_time()
        if self.device.type == "cuda":
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._wall
        if self.device.type != "cuda":
            used = time.process_time() - self._used
            self.share: float | None = min(1.0, used / self.seconds / torch.get_num_threads())
            return
        self._stop.set()
        self._thread.join()
        if self._samples:
            self.share = sum(self._samples) / len(self._samples) / 100

    def _sample(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            try:
                self._samples.append(torch.cuda.utilization(self.device))
            except Exception:  # NVML is missing or rejects the query: no share is reported
                return

"""The share of time in which a device works: sampled from the driver of a GPU, processor time of a CPU."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import torch

INTERVAL_S = 0.1


class Utilization:
    """Measures while a block lasts: `share` is 0 … 1, None where the driver cannot be asked.

    A GPU's share is that of the time in which a kernel ran. A CPU's is relative to the threads of torch.
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
            except Exception:  # no NVML, or one that refuses: then there is no share
                return

"""The clip itself, as 16 bits a sample: the top of every scale, and what DNSMOS says of the recording."""

from __future__ import annotations

import numpy as np

from codecvq.evaluation import Transmission

BITS = 16


class Original:
    """A codec that changes nothing but rounds to 16 bits, as the file did that the clip comes from."""

    def __init__(self) -> None:
        self.name = "original"
        self.identity = {"name": self.name, "bits": BITS}

    def transmit(self, samples: np.ndarray, sample_rate: int) -> Transmission:
        """See `codecvq.evaluation.transmission.Transmitter`."""
        full = 2 ** (BITS - 1)
        rounded = np.clip(np.rint(samples * full), -full, full - 1) / full
        return Transmission(rounded.astype(np.float32), BITS * samples.size)

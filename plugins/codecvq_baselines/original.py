"""The original clip at 16 bits per sample: the best score of each metric, and its own DNSMOS."""

from __future__ import annotations

import numpy as np

from codecvq.evaluation import Transmission

BITS = 16


class Original:
    """A codec that only rounds samples to 16 bits, like the audio file that the clip comes from."""

    def __init__(self) -> None:
        self.name = "original"
        self.identity = {"name": self.name, "bits": BITS}

    def transmit(self, samples: np.ndarray, sample_rate: int) -> Transmission:
        """See `codecvq.evaluation.transmission.Transmitter`."""
        full = 2 ** (BITS - 1)
        rounded = np.clip(np.rint(samples * full), -full, full - 1) / full
        return Transmission(rounded.astype(np.float32), BITS * samples.size)

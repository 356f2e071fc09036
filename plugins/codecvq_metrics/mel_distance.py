"""The distance of two signals in log mel magnitude, averaged over five windows.

For each window w of 8, 16, 32, 64 and 128 ms (128 … 2048 samples at 16 kHz), with hop w/4 and 10, 20, 40, 80
and 160 mel bands,

    d_w = mean over frames and bands of | log10 max(M_w(reference), 1e-5) - log10 max(M_w(decoded), 1e-5) |

M_w is the magnitude (not power) spectrum through triangular mel filters up to half the sample rate, scaled so
that a full-scale sine has magnitude 1; 1e-5 is -100 dBFS. The metric is the mean of the five d_w; 0.1
corresponds to 2 dB.

The metric follows the mel loss of DAC (arXiv:2306.06546) with fewer windows. Windows are in seconds, so that
16 kHz and 24 kHz codecs are measured alike. The metric is symmetric, and zero for equal signals. It is also
zero where both signals are below the floor, so it is defined for silence. Numbers from other toolkits, whose
windows, bands and floors differ, are not comparable.
"""

from __future__ import annotations

import functools

import numpy as np

from codecvq import MetricUndefined
from codecvq_metrics.spectrum import FLOOR, magnitudes, mel_filters

WINDOWS_S = (0.008, 0.016, 0.032, 0.064, 0.128)
BANDS = (10, 20, 40, 80, 160)


class MelDistance:
    """The metric `mel_distance`, in units of log10. Caches its filters per sample rate."""

    def __init__(self) -> None:
        self._filters = functools.lru_cache(maxsize=32)(mel_filters)

    def __call__(self, reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> dict[str, float]:
        """`{"mel_distance": d}` of one clip. Shapes: both `[S]`. Raises MetricUndefined for an empty clip."""
        if not reference.size:
            raise MetricUndefined("the clip has no samples")
        distances = [
            np.abs(
                self._log_mel(reference, s, bands, sample_rate)
                - self._log_mel(decoded, s, bands, sample_rate)
            ).mean()
            for s, bands in zip(WINDOWS_S, BANDS, strict=True)
        ]
        return {"mel_distance": float(np.mean(distances))}

    def _log_mel(self, signal: np.ndarray, window_s: float, bands: int, sample_rate: int) -> np.ndarray:
        window = 4 * round(window_s * sample_rate / 4)  # an integer number of hops
        filters = self._filters(bands, window, sample_rate)
        mel = magnitudes(signal, window, window // 4) @ filters  # [frames, bands]
        return np.log10(np.maximum(mel, FLOOR))

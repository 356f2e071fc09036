"""The log-spectral distance (Gray and Markel 1976): RMS difference of spectra in dB, averaged over frames.

Window 32 ms, hop 8 ms, magnitudes floored at -100 dBFS. All bins have equal weight, so half of the distance
comes from the upper half of the band, where speech has little energy. It is a coarse measure, for comparison
with older work.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codecvq import MetricUndefined
from codecvq_metrics.spectrum import FLOOR, magnitudes

WINDOW_S = 0.032


def make() -> Callable[[np.ndarray, np.ndarray, int], dict[str, float]]:
    """The metric `log_spectral_distance`, in dB."""
    return log_spectral_distance


def log_spectral_distance(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> dict[str, float]:
    """`{"log_spectral_distance": d}` of one clip. Shapes: both `[S]`.

    Raises MetricUndefined for an empty clip.
    """
    if not reference.size:
        raise MetricUndefined("the clip has no samples")
    window = 4 * round(WINDOW_S * sample_rate / 4)
    levels = [
        20 * np.log10(np.maximum(magnitudes(s, window, window // 4), FLOOR)) for s in (reference, decoded)
    ]
    per_frame = np.sqrt(np.square(levels[0] - levels[1]).mean(axis=-1))  # [frames]
    return {"log_spectral_distance": float(per_frame.mean())}

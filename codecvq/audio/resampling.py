"""Resampling with soxr."""

from __future__ import annotations

import numpy as np

from codecvq.audio.limits import HIGHEST_RATE, LOWEST_RATE, FloatArray
from codecvq.errors import AudioError

MAX_RATIO = HIGHEST_RATE // LOWEST_RATE  # maximum ratio of the sample rates


def resample(samples: FloatArray, from_rate: int, to_rate: int, quality: str = "VHQ") -> FloatArray:
    """Resample `[..., S]` to exactly `ceil(S * to_rate / from_rate)` samples.

    Uses soxr with linear phase and without delay. Returns the same array if the rates are equal. `quality` is
    the name of a quality of soxr, from "QQ" to "VHQ". Raises AudioError if one rate is more than 768 times
    the other.
    """
    import soxr

    if from_rate <= 0 or to_rate <= 0:
        raise AudioError(f"cannot resample from {from_rate} Hz to {to_rate} Hz: both rates must be above 0.")
    if max(from_rate, to_rate) > MAX_RATIO * min(from_rate, to_rate):
        raise AudioError(
            f"cannot resample from {from_rate} Hz to {to_rate} Hz: one is more than {MAX_RATIO} times the "
            "other. Check the sample rates."
        )
    if from_rate == to_rate:
        return samples
    length = -(-samples.shape[-1] * to_rate // from_rate)
    if samples.size == 0:
        return np.zeros((*samples.shape[:-1], length), dtype=np.float32)
    rows = samples.reshape(-1, samples.shape[-1]).astype(np.float32, copy=False)
    # soxr rounds the length to the nearest integer; with silence appended it also computes the last sample
    rows = np.pad(rows, ((0, 0), (0, from_rate // to_rate + 2)))
    resampled = soxr.resample(np.ascontiguousarray(rows.T), from_rate, to_rate, quality=quality)  # [S, rows]
    return np.ascontiguousarray(resampled[:length].T).reshape(*samples.shape[:-1], length)

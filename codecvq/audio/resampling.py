"""Samples at another rate."""

from __future__ import annotations

import numpy as np

from codecvq.audio.limits import HIGHEST_RATE, LOWEST_RATE, FloatArray
from codecvq.errors import AudioError

FARTHEST = HIGHEST_RATE // LOWEST_RATE  # of one rate over the other


def resample(samples: FloatArray, from_rate: int, to_rate: int, quality: str = "VHQ") -> FloatArray:
    """Samples `[..., S]` at another rate, exactly `ceil(S * to_rate / from_rate)` of them; the same array
    where rates are equal.

    soxr with linear phase: no delay, and time 0 stays time 0. `quality` is soxr's, from "QQ" to "VHQ". Raises
    AudioError where one rate is more than 768 times the other.
    """
    import soxr

    if from_rate <= 0 or to_rate <= 0:
        raise AudioError(f"cannot resample from {from_rate} Hz to {to_rate} Hz: both rates must be above 0.")
    if max(from_rate, to_rate) > FARTHEST * min(from_rate, to_rate):
        raise AudioError(
            f"cannot resample from {from_rate} Hz to {to_rate} Hz: one is more than {FARTHEST} times the "
            "other. Check the sample rates."
        )
    if from_rate == to_rate:
        return samples
    length = -(-samples.shape[-1] * to_rate // from_rate)
    if samples.size == 0:
        return np.zeros((*samples.shape[:-1], length), dtype=np.float32)
    rows = samples.reshape(-1, samples.shape[-1]).astype(np.float32, copy=False)
    # soxr rounds the length to the nearest; silence behind the end lets it compute the last sample instead of
    # our guessing it
    rows = np.pad(rows, ((0, 0), (0, from_rate // to_rate + 2)))
    resampled = soxr.resample(np.ascontiguousarray(rows.T), from_rate, to_rate, quality=quality)  # [S, rows]
    return np.ascontiguousarray(resampled[:length].T).reshape(*samples.shape[:-1], length)

"""Difference of the levels of decoded and original clip: |20 log10(rms decoded / rms original)|, in dB."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codecvq import MetricUndefined


def make_level_difference() -> Callable[[np.ndarray, np.ndarray, int], dict[str, float]]:
    """Return the metric; it needs no setup."""
    return _level_difference


def _level_difference(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> dict[str, float]:
    energies = np.square(reference, dtype=np.float64).mean(), np.square(decoded, dtype=np.float64).mean()
    if min(energies) == 0:
        raise MetricUndefined("one of the clips is silent: the ratio of levels is undefined")
    return {"level_difference": float(abs(10 * np.log10(energies[1] / energies[0])))}

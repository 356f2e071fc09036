"""Distance of the decoded clip's level from the original's: |20 log10(rms decoded / rms original)|, dB."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codecvq import MetricUndefined


def make_level_difference() -> Callable[[np.ndarray, np.ndarray, int], dict[str, float]]:
    """The metric; it needs nothing to be set up."""
    return _level_difference


def _level_difference(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> dict[str, float]:
    energies = np.square(reference, dtype=np.float64).mean(), np.square(decoded, dtype=np.float64).mean()
    if min(energies) == 0:
        raise MetricUndefined("one of the two is silent: the ratio of levels is not defined")
    return {"level_difference": float(abs(10 * np.log10(energies[1] / energies[0])))}

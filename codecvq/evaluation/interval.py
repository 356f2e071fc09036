"""Means with bootstrap confidence intervals over clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2_000
COVERAGE = 0.95
BLOCK_DRAWS = 2**20  # clips drawn at once


@dataclass(frozen=True)
class Mean:
    """A mean over clips."""

    value: float | None  # None when n is 0
    low: float | None  # 95 % bootstrap interval; None with fewer than two clips
    high: float | None
    n: int  # clips that have a value


def mean_of(values: Sequence[float], seed: int = 0) -> Mean:
    """Return the mean and its 95 % percentile-bootstrap interval over clips (2,000 resamples, seeded).

    Assumes independent clips. Clips of one speaker are not independent: with few speakers, the interval is
    valid for other clips of the same speakers, but too narrow for other speakers.
    """
    if not values:
        return Mean(None, None, None, 0)
    data = np.asarray(values, dtype=np.float64)
    if data.size == 1:
        return Mean(float(data[0]), None, None, 1)
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK_DRAWS // data.size)  # resamples per block, to limit the memory
    means = [
        data[generator.integers(data.size, size=(min(block, RESAMPLES - done), data.size))].mean(axis=1)
        for done in range(0, RESAMPLES, block)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Mean(float(data.mean()), float(low), float(high), data.size)

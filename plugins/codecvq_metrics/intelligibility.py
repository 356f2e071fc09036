"""STOI and ESTOI by the package `pystoi`, which resamples to 10 kHz itself, by Octave's filter.

The band measured ends at 4.3 kHz (15 third-octaves from 150 Hz). Frames 40 dB below the loudest of the
reference are dropped first, and at least 30 frames (0.4 s) of the rest are needed: where they are not there
pystoi warns and returns 1e-5, a number that must not go into a mean. Here that is `MetricUndefined`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from codecvq import MetricUndefined

MIN_DURATION_S = (
    0.41  # 4,097 samples at 10 kHz give the 31 frames of 256, one every 128, of which pystoi keeps 30
)
SILENCE_LEVEL = 1e-4  # -80 dBFS

Score = Callable[[np.ndarray, np.ndarray, int], dict[str, float]]


def plain() -> Score:
    """STOI (`stoi`): 0 to 1, monotone in the share of words understood."""
    return lambda reference, decoded, sample_rate: {
        "stoi": score(reference, decoded, sample_rate, extended=False)
    }


def extended() -> Score:
    """ESTOI (`estoi`): as STOI, and hears temporal fluctuation of the distortion; always somewhat lower."""
    return lambda reference, decoded, sample_rate: {
        "estoi": score(reference, decoded, sample_rate, extended=True)
    }


def score(reference: np.ndarray, decoded: np.ndarray, sample_rate: int, extended: bool) -> float:
    """STOI or ESTOI of one clip. Shapes: both `[S]`."""
    from pystoi import stoi

    if reference.size < MIN_DURATION_S * sample_rate:
        raise MetricUndefined(
            f"{reference.size / sample_rate:.3f} s is shorter than the {MIN_DURATION_S} s that STOI needs"
        )
    if np.abs(reference).max() < SILENCE_LEVEL:
        raise MetricUndefined("the reference is silent")
    # ESTOI adds noise of 1e-16 from numpy's global generator; seeded, a silent decoded clip gives the same
    # value every time.
    state = np.random.get_state()
    np.random.seed(0)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
            return float(
                stoi(reference.astype(np.float64), decoded.astype(np.float64), sample_rate, extended=extended)
            )
    except RuntimeWarning as error:
        raise MetricUndefined(
            "fewer than 30 frames (0.4 s) of speech are left once silence is dropped"
        ) from error
    finally:
        np.random.set_state(state)

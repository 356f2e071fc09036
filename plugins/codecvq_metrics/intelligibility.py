"""STOI and ESTOI by the package `pystoi`, which resamples to 10 kHz itself, with Octave's filter.

The measured band ends at 4.3 kHz (15 third-octaves from 150 Hz). Frames 40 dB below the loudest reference
frame are dropped first. At least 30 frames (0.4 s) must remain: otherwise pystoi warns and returns 1e-5, a
number that must not enter a mean. This metric raises MetricUndefined instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from codecvq import MetricUndefined

#: 4,097 samples at 10 kHz give 31 frames of 256 samples, one every 128; pystoi uses 30 of them.
MIN_DURATION_S = 0.41
SILENCE_LEVEL = 1e-4  # -80 dBFS

Score = Callable[[np.ndarray, np.ndarray, int], dict[str, float]]


def plain() -> Score:
    """STOI (`stoi`): about 0 to 1; increases with the share of words understood."""
    return lambda reference, decoded, sample_rate: {
        "stoi": score(reference, decoded, sample_rate, extended=False)
    }


def extended() -> Score:
    """ESTOI (`estoi`): STOI that also reacts to temporal fluctuations; usually lower than STOI."""
    return lambda reference, decoded, sample_rate: {
        "estoi": score(reference, decoded, sample_rate, extended=True)
    }


def score(reference: np.ndarray, decoded: np.ndarray, sample_rate: int, extended: bool) -> float:
    """STOI or ESTOI of one clip. Shapes: both `[S]`. Raises MetricUndefined for short or silent clips."""
    from pystoi import stoi

    if reference.size < MIN_DURATION_S * sample_rate:
        raise MetricUndefined(
            f"{reference.size / sample_rate:.3f} s is shorter than the {MIN_DURATION_S} s that STOI needs"
        )
    if np.abs(reference).max() < SILENCE_LEVEL:
        raise MetricUndefined("the reference is silent")
    # ESTOI adds noise of 1e-16 from numpy's global generator. The seed makes the value of a silent decoded
    # clip repeatable.
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

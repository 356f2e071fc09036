"""ViSQOL v3 in speech mode (arXiv:2004.09584) by the package `visqol-python`, with its lattice mapping.

Gammatone spectrograms of 16 kHz audio with 21 bands are compared patch by patch. A deep lattice network maps
the similarity to a mean opinion score from 1 to 5, as Google's own program does by default. The network runs
in `ai-edge-litert`. Without it the package warns and uses a polynomial instead, which gave 4.61 instead of
2.73 for the same clip. This metric therefore requests the lattice explicitly, and both packages are required.
Two scores are comparable only if both use this mapping.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codecvq import MetricUndefined
from codecvq.audio import resample

SAMPLE_RATE = 16_000  # Hz, of the speech mode
MIN_DURATION_S = 0.5  # a patch is 20 frames, 0.4 s, and at least one patch must contain speech
SILENCE_LEVEL = 1e-4  # -80 dBFS

Score = Callable[[np.ndarray, np.ndarray, int], dict[str, float]]


def make() -> Score:
    """The metric `visqol`: a mean opinion score (MOS-LQO) from 1 to 5. Loads the model once."""
    from visqol.api import VisqolApi

    api = VisqolApi()
    api.create(
        mode="speech", use_lattice_model=True
    )  # with None it may use the polynomial, with only a warning

    def visqol(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> dict[str, float]:
        original, samples = (resample(signal, sample_rate, SAMPLE_RATE) for signal in (reference, decoded))
        _check(original, samples)
        try:
            result = api.measure_from_arrays(
                original.astype(np.float64), samples.astype(np.float64), SAMPLE_RATE
            )
            return {"visqol": float(result.moslqo)}
        except (ValueError, IndexError) as error:  # raised if no patch is left to compare
            raise MetricUndefined("ViSQOL found no patch of speech to compare") from error

    return visqol


def _check(reference: np.ndarray, decoded: np.ndarray) -> None:
    if reference.size < MIN_DURATION_S * SAMPLE_RATE:
        raise MetricUndefined(
            f"{reference.size / SAMPLE_RATE:.3f} s is shorter than the {MIN_DURATION_S} s that ViSQOL needs"
        )
    for name, signal in (("reference", reference), ("decoded clip", decoded)):
        if np.abs(signal).max() < SILENCE_LEVEL:
            raise MetricUndefined(f"the {name} is silent")

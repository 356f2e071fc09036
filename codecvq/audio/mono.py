"""Mixing channels to mono."""

from __future__ import annotations

import numpy as np

from codecvq.audio.limits import FloatArray
from codecvq.errors import AudioError

#: Channels cancel out if the energy of their mean, divided by the mean of their energies, is below this
#: (-20 dB). The ratio is 1 for equal channels, 1 / C for uncorrelated ones, 0.5 if one of two is silent, and
#: 0 if one is the inverted other.
MIN_ENERGY_RATIO = 0.01
MIN_SAMPLES = 4000  # samples; fewer can have opposite signs by chance
MIN_ENERGY = 1e-8  # mean energy (-80 dB); quieter audio is only noise and is not checked


def to_mono(samples: FloatArray, name: str = "the audio") -> FloatArray:
    """Average the channels: `[C, S]` -> `[S]`. Returns `[S]` unchanged.

    Raises AudioError, naming the file `name`, if the channels cancel out: a recording whose second channel is
    the inverted first one would become silence.
    """
    if samples.ndim == 1:
        return samples
    if samples.shape[0] == 1:
        return samples[0]
    mean: FloatArray = samples.mean(axis=0, dtype=np.float32)
    if mean.size >= MIN_SAMPLES:
        channel_energy = sum(_energy(channel) for channel in samples) / len(samples)
        if channel_energy > MIN_ENERGY and _energy(mean) < MIN_ENERGY_RATIO * channel_energy:
            raise AudioError(
                f"{name}: its {len(samples)} channels cancel out (opposite phase), so their mean is nearly "
                "silent. Select one of them in a manifest with a column 'channel' (0 is the first), or "
                "convert the file to mono."
            )
    return mean


def _energy(samples: FloatArray) -> float:
    return float(np.dot(samples, samples)) / samples.size

"""One channel out of several."""

from __future__ import annotations

import numpy as np

from codecvq.audio.limits import FloatArray
from codecvq.errors import AudioError

#: The energy of the mean of channels over the mean of their energies, below which they cancel out: -20 dB.
#: Equal channels give 1, unrelated ones 1 / C, one loud channel of two 0.5; a channel that is the other one
#: with its sign turned gives 0.
CANCELLED = 0.01
SHORTEST = 4000  # samples; fewer can be of opposite signs by chance
QUIETEST = 1e-8  # mean energy (-80 dB): below it there is nothing but noise, which may do what it will


def to_mono(samples: FloatArray, name: str = "the audio") -> FloatArray:
    """The mean of the channels: `[C, S]` -> `[S]`; `[S]` comes back as it is.

    Raises AudioError, with `name` for the file, where the channels cancel out: a recording whose second
    channel is the first one with its sign turned would become silence.
    """
    if samples.ndim == 1:
        return samples
    if samples.shape[0] == 1:
        return samples[0]
    mean: FloatArray = samples.mean(axis=0, dtype=np.float32)
    if mean.size >= SHORTEST:
        each = sum(_energy(channel) for channel in samples) / len(samples)
        if each > QUIETEST and _energy(mean) < CANCELLED * each:
            raise AudioError(
                f"{name}: its {len(samples)} channels cancel out (they are of opposite phase), so their mean "
                "is nearly silent. Name one of them in a manifest with a column 'channel' (0 is the first), "
                "or convert the file to mono."
            )
    return mean


def _energy(samples: FloatArray) -> float:
    return float(np.dot(samples, samples)) / samples.size

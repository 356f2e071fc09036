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


class MonoMixer:
    """Averages the channels of a recording in pieces. `name` is the recording in errors."""

    def __init__(self, name: str = "the audio") -> None:
        self.name = name
        self._channels = self._samples = 0
        self._mean_energy = self._channel_energy = 0.0

    def push(self, samples: FloatArray) -> FloatArray:
        """Return the mean of the channels: `[C, n]` -> `[n]`."""
        self._channels = len(samples)
        if self._channels == 1:
            return samples[0]
        mean = samples[0].astype(np.float32)
        for channel in samples[1:]:  # not `np.mean`: the order of its sum depends on the memory layout
            mean += channel
        mean /= np.float32(self._channels)
        self._samples += mean.size
        self._mean_energy += _energy(mean)
        self._channel_energy += sum(_energy(channel) for channel in samples) / self._channels
        return mean

    def flush(self) -> None:
        """End the recording. Raises AudioError if the channels of the whole recording cancel out.

        A recording whose second channel is the inverted first one would become silence.
        """
        samples, mean, channel = self._samples, self._mean_energy, self._channel_energy
        self._samples, self._mean_energy, self._channel_energy = 0, 0.0, 0.0
        if samples >= MIN_SAMPLES and channel > MIN_ENERGY * samples and mean < MIN_ENERGY_RATIO * channel:
            raise AudioError(
                f"{self.name}: its {self._channels} channels cancel out (opposite phase), so their mean is "
                "nearly silent. Select one of them in a manifest with a column 'channel' (0 is the first), "
                "or convert the file to mono."
            )


def to_mono(samples: FloatArray, name: str = "the audio") -> FloatArray:
    """Average the channels: `[C, S]` -> `[S]`. Returns `[S]` unchanged.

    Raises AudioError, naming the file `name`, if the channels cancel out.
    """
    if samples.ndim == 1:
        return samples
    mixer = MonoMixer(name)
    mean = mixer.push(samples)
    mixer.flush()
    return mean


def _energy(samples: FloatArray) -> float:
    return float(np.dot(samples, samples))

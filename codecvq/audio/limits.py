"""Limits on audio files.

A small file can declare, or decode to, any number of samples: without limits, 500 kB can exhaust the memory.
Each limit is above what speech recordings need.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codecvq.errors import AudioError
from codecvq.limits import MAX_AUDIO_S, SAMPLE_RATES

FloatArray = npt.NDArray[np.float32]

LOWEST_RATE, HIGHEST_RATE = SAMPLE_RATES
MAX_CHANNELS = 64  # enough for microphone arrays and seventh-order ambisonics
MAX_BYTES = 4 * 2 * 48_000 * 3600  # of one read: an hour of stereo at 48 kHz, float32
#: A recording that is read in blocks, or decoded from its beginning to reach a part, is at most this long
MAX_DECODED_S = 48 * 3600.0
MAX_BLOCK_BYTES = 1 << 24  # of one block of a recording that is read in blocks

MIN_BPS = 200.0  # minimum bit rate of coded audio; a header with a lower one may be wrong


def is_plausible(seconds: float, size: int) -> bool:
    """Whether a coded file of `size` bytes can have the duration that its header states."""
    return seconds * MIN_BPS <= 8 * size


@dataclass(frozen=True)
class ReadLimit:
    """Limits on one read of a file with this sample rate and number of channels."""

    name: str  # of the file, for messages
    sample_rate: int  # Hz
    channels: int
    longest_s: float | None = MAX_AUDIO_S  # maximum duration of one read; None: it is read in blocks

    def __post_init__(self) -> None:
        """Raise AudioError for an unsupported sample rate or number of channels."""
        if not LOWEST_RATE <= (self.sample_rate or 0) <= HIGHEST_RATE:
            raise AudioError(
                f"{self.name} has a sample rate of {self.sample_rate} Hz, but {LOWEST_RATE} to "
                f"{HIGHEST_RATE} Hz are supported. Replace the file, or remove it from the corpus."
            )
        if not 1 <= (self.channels or 0) <= MAX_CHANNELS:
            raise AudioError(
                f"{self.name} has {self.channels} channels, but 1 to {MAX_CHANNELS} are supported. Replace "
                "the file, or remove it from the corpus."
            )

    @property
    def samples(self) -> int:
        """Maximum number of samples of one read."""
        if self.longest_s is None:
            return int(MAX_DECODED_S * self.sample_rate)
        return min(int(self.longest_s * self.sample_rate), MAX_BYTES // (4 * self.channels))

    def check(self, samples: int) -> None:
        """Raise AudioError if `samples`, the number of samples of one read, exceeds the limit."""
        if self.longest_s is None:
            self.check_decoded(samples)
        elif samples > self.samples:
            raise AudioError(
                f"{self.name} is too long to read at once: more than "
                f"{self.samples / self.sample_rate:.0f} s of {self.channels} channels at {self.sample_rate} "
                "Hz. Split it into files, or list parts of it in a manifest with 'start' and 'duration'."
            )

    def check_decoded(self, samples: int) -> None:
        """Raise AudioError if `samples`, the number of samples decoded until now, exceeds the limit."""
        if samples > MAX_DECODED_S * self.sample_rate:
            raise AudioError(
                f"{self.name} is longer than {MAX_DECODED_S / 3600:.0f} hours. Split it into shorter files."
            )

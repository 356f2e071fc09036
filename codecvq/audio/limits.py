"""What an audio file may ask for. A small file can claim, or decode to, anything: without bounds 500 kB take
all memory. Each bound lies above what speech is recorded with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codecvq.errors import AudioError
from codecvq.limits import LONGEST_S, SAMPLE_RATES

FloatArray = npt.NDArray[np.float32]

LOWEST_RATE, HIGHEST_RATE = SAMPLE_RATES
MAX_CHANNELS = 64  # an array of microphones, or ambisonics of the seventh order
MAX_BYTES = 4 * 2 * 48_000 * 3600  # that samples read at once may take: an hour of stereo at 48 kHz, float32
#: Where a format cannot seek, what lies before a part is decoded too: at most this much
MAX_DECODED_S = 24 * 3600.0


MIN_BPS = 200.0  # bits a second of what is coded; a header that tells of more seconds may be wrong


def is_plausible(seconds: float, size: int) -> bool:
    """Whether a coded file of `size` bytes may be as long as its header tells."""
    return seconds * MIN_BPS <= 8 * size


@dataclass(frozen=True)
class ReadLimit:
    """How much of a file of this rate and number of channels may be read at once."""

    name: str  # of the file, for messages
    sample_rate: int  # Hz
    channels: int
    longest_s: float = LONGEST_S

    def __post_init__(self) -> None:
        """Raise AudioError for a rate or a number of channels that no recording has."""
        if not LOWEST_RATE <= (self.sample_rate or 0) <= HIGHEST_RATE:
            raise AudioError(
                f"{self.name} has a sample rate of {self.sample_rate} Hz, but {LOWEST_RATE} to "
                f"{HIGHEST_RATE} Hz are supported. Replace the file, or leave it out of the corpus."
            )
        if not 1 <= (self.channels or 0) <= MAX_CHANNELS:
            raise AudioError(
                f"{self.name} has {self.channels} channels, but 1 to {MAX_CHANNELS} are supported. Replace "
                "the file, or leave it out of the corpus."
            )

    @property
    def samples(self) -> int:
        """The most samples that may be read at once."""
        return min(int(self.longest_s * self.sample_rate), MAX_BYTES // (4 * self.channels))

    def check(self, samples: int) -> None:
        """Raise AudioError where `samples` are more than may be read at once."""
        if samples > self.samples:
            raise AudioError(
                f"{self.name} is too long to be read at once: more than "
                f"{self.samples / self.sample_rate:.0f} s of {self.channels} channels at {self.sample_rate} "
                "Hz. Cut it into files, or list parts of it in a manifest with 'start' and 'duration'."
            )

    def check_decoded(self, samples: int) -> None:
        """Raise AudioError where `samples` are more than may be decoded on the way to a part."""
        if samples > MAX_DECODED_S * self.sample_rate:
            raise AudioError(
                f"{self.name} is longer than {MAX_DECODED_S / 3600:.0f} hours. Cut it into shorter files."
            )

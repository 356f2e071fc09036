"""`Part`, a request to read a part of a file, and `Audio`, its result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from codecvq.audio.limits import FloatArray
from codecvq.limits import MAX_AUDIO_S

PAST_END_S = 1e9  # after the end of every file


@dataclass(frozen=True)
class Audio:
    """Float32 samples `[C, S]` with their sample rate, in [-1, 1] unless a float file exceeds it."""

    samples: FloatArray
    sample_rate: int  # Hz

    @property
    def duration_s(self) -> float:
        """Duration in seconds."""
        return self.samples.shape[-1] / self.sample_rate


@dataclass(frozen=True)
class Part:
    """A part of a file; by default the whole file."""

    name: str  # of the file, for messages
    start_s: float = 0.0
    duration_s: float | None = None  # None: to the end of the file
    longest_s: float = MAX_AUDIO_S  # a longer part raises AudioError

    def samples(self, sample_rate: int) -> tuple[int, int | None]:
        """Return the index of the first sample and the number of samples.

        The number is at least 1; None: to the end of the file.
        """
        count = (
            None if self.duration_s is None else max(1, round(min(self.duration_s, PAST_END_S) * sample_rate))
        )
        return round(min(self.start_s, PAST_END_S) * sample_rate), count


def concatenate(pieces: list[FloatArray], channels: int) -> FloatArray:
    """Concatenate pieces `[C, n]` to `[C, S]`. Empties the list, freeing each piece once it is copied."""
    samples = np.empty((channels, sum(piece.shape[1] for piece in pieces)), dtype=np.float32)
    at = 0
    pieces.reverse()
    while pieces:
        piece = pieces.pop()
        samples[:, at : at + piece.shape[1]] = piece
        at += piece.shape[1]
    return samples

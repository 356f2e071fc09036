"""What is asked of a file, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass

from codecvq.audio.limits import LONGEST_S, FloatArray

FARTHEST_S = 1e9  # behind the end of every file


@dataclass(frozen=True)
class Audio:
    """What a file holds: samples `[C, S]`, float32, in [-1, 1] unless a float file goes beyond."""

    samples: FloatArray
    sample_rate: int  # Hz

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.samples.shape[-1] / self.sample_rate


@dataclass(frozen=True)
class Part:
    """A part of a file; by default all of it."""

    name: str  # of the file, for messages
    start_s: float = 0.0
    duration_s: float | None = None  # None: all that follows
    longest_s: float = LONGEST_S

    def samples(self, sample_rate: int) -> tuple[int, int | None]:
        """The first sample, and how many; None for all that follow."""
        count = (
            None if self.duration_s is None else max(1, round(min(self.duration_s, FARTHEST_S) * sample_rate))
        )
        return round(min(self.start_s, FARTHEST_S) * sample_rate), count

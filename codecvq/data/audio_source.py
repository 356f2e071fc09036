"""Where the audio of a clip is: a file, or what a plugin reads it from, as a member of an archive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from codecvq.audio import Audio, duration_s, read_audio
from codecvq.data.fingerprint import fingerprint
from codecvq.limits import LONGEST_S


class AudioSource(Protocol):
    """A recording. It is immutable, hashable and small, and can be pickled: it goes with its clip to other
    processes. Each method raises AudioError or OSError where the recording cannot be read.
    """

    def read(
        self, *, start_s: float = 0.0, duration_s: float | None = None, longest_s: float = LONGEST_S
    ) -> Audio:
        """The samples `[C, S]` at the recording's own rate; of the part, if it is given. Audio that ends
        before the part is shorter; more than `longest_s` seconds is an error.
        """

    def length_s(self) -> float:
        """Seconds of the whole recording."""

    def fingerprint(self) -> str:
        """32 hexadecimal digits that tell the recording from others, whatever it is called."""


@dataclass(frozen=True)
class AudioFile:
    """A file of its own."""

    path: Path

    def read(
        self, *, start_s: float = 0.0, duration_s: float | None = None, longest_s: float = LONGEST_S
    ) -> Audio:
        """See `codecvq.audio.read_audio`."""
        return read_audio(self.path, start_s=start_s, duration_s=duration_s, longest_s=longest_s)

    def length_s(self) -> float:
        """See `codecvq.audio.duration_s`."""
        return duration_s(self.path)

    def fingerprint(self) -> str:
        """See `codecvq.data.fingerprint`."""
        return fingerprint(self.path)

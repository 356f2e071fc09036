"""Sources of a clip's audio: a file, or anything that a plugin can read, such as a member of an archive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from codecvq.audio import Audio, duration_s, read_audio, read_blocks
from codecvq.data.fingerprint import fingerprint
from codecvq.limits import MAX_AUDIO_S


class AudioSource(Protocol):
    """A recording: the interface that plugins implement to read audio from other places than files.

    Implementations are immutable, hashable, small and picklable, because a source is sent with its clip to
    other processes. Each method raises AudioError or OSError if the recording cannot be read.

    A source of long recordings also has the method `read_blocks` of `LongAudioSource`.
    """

    def read(
        self, *, start_s: float = 0.0, duration_s: float | None = None, longest_s: float = MAX_AUDIO_S
    ) -> Audio:
        """Read samples `[C, S]` at the sample rate of the recording.

        `start_s` and `duration_s` select a part. The result is shorter if the recording ends before the part
        does. Raises AudioError for more than `longest_s` seconds.
        """

    def length_s(self) -> float:
        """Duration of the whole recording in seconds."""

    def fingerprint(self) -> str:
        """32 hexadecimal digits that identify the recording, independent of its name."""


class LongAudioSource(AudioSource, Protocol):
    """A recording of any length, which can be read in blocks."""

    def read_blocks(self, *, start_s: float = 0.0, duration_s: float | None = None) -> Iterator[Audio]:
        """Yield the samples of `read` in blocks `[C, n]` of any size, without a limit on the duration."""


def blocks_of(
    source: AudioSource, *, start_s: float = 0.0, duration_s: float | None = None
) -> Iterator[Audio]:
    """Yield the samples of a recording in blocks, or as one block if the source cannot read blocks."""
    read = getattr(source, "read_blocks", None)  # an optional method of third-party sources
    if read is None:
        yield source.read(start_s=start_s, duration_s=duration_s)
    else:
        yield from read(start_s=start_s, duration_s=duration_s)


@dataclass(frozen=True)
class AudioFile:
    """An audio file."""

    path: Path

    def read(
        self, *, start_s: float = 0.0, duration_s: float | None = None, longest_s: float = MAX_AUDIO_S
    ) -> Audio:
        """See `codecvq.audio.read_audio`."""
        return read_audio(self.path, start_s=start_s, duration_s=duration_s, longest_s=longest_s)

    def read_blocks(self, *, start_s: float = 0.0, duration_s: float | None = None) -> Iterator[Audio]:
        """See `codecvq.audio.read_blocks`."""
        return read_blocks(self.path, start_s=start_s, duration_s=duration_s)

    def length_s(self) -> float:
        """See `codecvq.audio.duration_s`."""
        return duration_s(self.path)

    def fingerprint(self) -> str:
        """See `codecvq.data.fingerprint`."""
        return fingerprint(self.path)

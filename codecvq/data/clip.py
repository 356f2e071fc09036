"""`Clip`: one utterance with its location and metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codecvq.audio import Audio, MonoMixer, Resampler, resample, to_mono
from codecvq.data.audio_source import AudioFile, AudioSource, blocks_of
from codecvq.data.text import utf8_safe, utf8_safe_id
from codecvq.errors import AudioError
from codecvq.escaping import printable
from codecvq.limits import MAX_AUDIO_S

ROUNDING_S = 0.1  # a part may end this much after the end of its file: times in manifests are often rounded


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One utterance: a file or a part of a file, with its metadata.

    Ids and texts that UTF-8 cannot encode (file names with other bytes, lone surrogates) are escaped, for
    example `caf\\xe9~0b5f7a2c`.
    """

    id: str
    path: Path
    text: str = ""
    speaker: str = ""
    language: str = ""  # BCP 47, like "en-US"
    licence: str = ""
    split: str = ""  # "train", "validation" or "test" if the corpus fixes it; "": the hash decides
    split_key: str = ""  # hashed in place of the id, if not empty: clips with equal keys share a split
    start_s: float = 0.0
    duration_s: float | None = None  # None: to the end of the file
    open_end: bool = False  # `duration_s` is informative, perhaps rounded; the clip ends with its file
    channel: int | None = None  # from 0; None: the mean of all channels
    #: The other columns of a manifest, unchanged; Any: JSON values.
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)
    measured: bool = field(default=False, compare=False)  # `duration_s` was compared with the file
    #: The audio, if it is not a file. `path` then only names the clip in lists and errors.
    source: AudioSource | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", utf8_safe_id(self.id))
        for name in ("text", "speaker", "language", "licence", "split", "split_key"):
            object.__setattr__(self, name, utf8_safe(getattr(self, name)))

    def read(self, sample_rate: int, *, longest_s: float = MAX_AUDIO_S) -> npt.NDArray[np.float32]:
        """Read the mono samples `[S]` of the clip, resampled to `sample_rate`.

        Raises AudioError if the file cannot be read, or if the clip is longer than `longest_s` seconds or
        ends after its file.
        """
        limit_s = None if self.open_end else self.duration_s
        audio = self.audio.read(start_s=self.start_s, duration_s=limit_s, longest_s=longest_s)
        if limit_s is not None and (too_long := self.duration_error(audio.duration_s)):
            raise AudioError(too_long)
        return resample(self.mono(audio), audio.sample_rate, sample_rate)

    def read_blocks(self, sample_rate: int) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the samples of `read` in blocks `[n]`, for a clip of any length.

        Raises the errors of `read`, each when the iteration reaches it: discard what was read before.
        """
        limit_s = None if self.open_end else self.duration_s
        mixer = MonoMixer(printable(str(self.path)))
        resampler, samples, rate = None, 0, sample_rate
        for audio in blocks_of(self.audio, start_s=self.start_s, duration_s=limit_s):
            rate = audio.sample_rate
            resampler = resampler or Resampler(rate, sample_rate)
            samples += audio.samples.shape[1]
            mono = mixer.push(audio.samples) if self.channel is None else self.mono(audio)
            yield resampler.push(mono[None])[0]
        mixer.flush()
        if limit_s is not None and (too_long := self.duration_error(samples / rate)):
            raise AudioError(too_long)
        if resampler is not None:
            yield resampler.flush()[0]

    def read_short(self, sample_rate: int, longest_s: float) -> npt.NDArray[np.float32] | None:
        """Return the result of `read`; None for a clip that is longer than `longest_s` seconds.

        Reads no more than needed to find this, so the memory is bounded. Raises the errors of `read`.
        """
        if (self.duration_s or 0.0) > longest_s and not self.open_end:
            return None
        blocks: list[npt.NDArray[np.float32]] = []
        samples = 0
        for block in self.read_blocks(sample_rate):
            blocks.append(block)
            samples += block.size
            if samples > longest_s * sample_rate:
                return None
        return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)

    def mono(self, audio: Audio) -> npt.NDArray[np.float32]:
        """Return the channel `[S]` that the clip selects, or the mean of all channels. Raises AudioError."""
        if self.channel is None:
            return to_mono(audio.samples, printable(str(self.path)))
        if self.channel >= len(audio.samples):
            raise AudioError(
                f"{printable(str(self.path))} has {len(audio.samples)} channels, but clip "
                f"{printable(self.id)} selects channel {self.channel} (0 is the first). Correct the manifest."
            )
        return audio.samples[self.channel]

    def duration_error(self, available_s: float) -> str:
        """Return an error message if the clip is longer than `available_s`, or "".

        `available_s` is the number of seconds from the start of the clip to the end of its file.
        """
        if self.duration_s is None or self.duration_s <= available_s + ROUNDING_S:
            return ""
        end_s = self.start_s + self.duration_s
        return (
            f"{printable(str(self.path))} ends at {self.start_s + available_s:.3f} s, but clip "
            f"{printable(self.id)} is the part from {self.start_s:g} to {end_s:g} s. Correct the manifest "
            "(its times are in seconds)."
        )

    @property
    def audio(self) -> AudioSource:
        """The recording that contains the clip."""
        return self.source or AudioFile(self.path)

    @property
    def part_suffix(self) -> str:
        """Suffix that distinguishes parts of one file: `@12.5` or `@12.5#1`; "" for a whole file."""
        is_whole = self.start_s == 0 and (self.open_end or self.duration_s is None)
        start = "" if is_whole else f"@{self.start_s:.10g}"
        return start if self.channel is None else f"{start}#{self.channel}"

    def identity(self) -> str:
        """Identify the recording, independent of its name and location.

        Returns the `fingerprint` of the file followed by `part_suffix`. Raises AudioError or OSError if the
        file cannot be read.
        """
        return f"{self.audio.fingerprint()}{self.part_suffix}"


@dataclass(frozen=True)
class ClipFailure:
    """A clip that cannot be used, with the error message."""

    id: str
    path: Path
    error: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", utf8_safe_id(self.id))
        object.__setattr__(self, "error", utf8_safe(self.error))

    def __str__(self) -> str:
        return f"{self.id}: {self.error}"

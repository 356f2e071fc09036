"""Writing audio files, at once or in pieces."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from codecvq.audio.limits import FloatArray
from codecvq.audio.pcm import to_int16
from codecvq.errors import AudioError
from codecvq.escaping import printable
from codecvq.files import atomic_file

if TYPE_CHECKING:
    import soundfile

WRITTEN_FORMATS = {".wav": "WAV", ".flac": "FLAC"}
WRITTEN_AT_ONCE = 1 << 20  # samples of each channel
MAX_WAV_BYTES = 2**32 - 2**16  # of the samples; a WAV file has 32 bits for its size


class AudioFileWriter:
    """An open audio file with 16 bits per sample; `audio_file` creates it."""

    def __init__(self, sound: soundfile.SoundFile, file: _WrittenFile, name: str) -> None:
        self.name, self.samples = name, 0  # samples of each channel that are written
        self._sound, self._file = sound, file

    def write(self, samples: npt.ArrayLike) -> None:
        """Append samples `[n]` or `[C, n]`.

        Scales them by 32768 and clamps them to the range of 16 bits. Raises AudioError for another number of
        channels, for non-finite samples and for a file that is too large for its format. Raises OSError if
        the file cannot be written.
        """
        values: FloatArray = np.atleast_2d(np.asarray(samples, dtype=np.float32))
        channels = self._sound.channels
        if values.ndim != 2 or len(values) != channels:
            raise AudioError(
                f"{self.name}: samples have shape {values.shape}, but [{channels}, n] is needed."
            )
        if not np.isfinite(values).all():
            raise AudioError(
                f"{self.name}: the samples to write are NaN or infinite. Check how they were computed."
            )
        self.samples += values.shape[1]
        if self._sound.format == "WAV" and _pcm_bytes(self.samples, channels) > MAX_WAV_BYTES:
            raise AudioError(
                f"{self.name}: the recording exceeds the {MAX_WAV_BYTES / 2**30:.3g} GiB of a WAV file. "
                "Write a .flac file."
            )
        self._sound.write(to_int16(values).T)
        self._file.check()


class _WrittenFile(io.FileIO):
    """A file for libsndfile, which does not report why writing fails.

    Keeps the first error for `check`, and discards what is written after it.
    """

    error: OSError | None = None

    def write(self, data: bytes) -> int:  # type: ignore[override]
        at = 0
        try:
            while at < len(data) and self.error is None:
                at += super().write(data[at:])
        except OSError as error:
            self.error = error
        return len(data)

    def check(self) -> None:
        """Raise the error of an earlier `write`."""
        if self.error is not None:
            raise self.error


@contextmanager
def audio_file(
    path: str | os.PathLike[str],
    sample_rate: int,
    channels: int = 1,
    *,
    num_samples: int | None = None,
    compression: float | None = None,
) -> Iterator[AudioFileWriter]:
    """Context manager that writes a 16-bit WAV or FLAC file, by the suffix, in pieces.

    The file appears under its name when the block ends without an error. Reading divides by the factor of
    `AudioFileWriter.write`, so reading and writing 16-bit audio is lossless. `num_samples` is the length, if
    it is known: above 4 GB, a WAV file has the form RF64, which other programs read too. `compression` is the
    FLAC compression level, from 0 (fast) to 1 (small).

    Raises AudioError for another suffix, and for a sample rate or number of channels that the format does not
    support. Raises OSError if the file cannot be written.
    """
    import soundfile

    path = Path(path)
    name = printable(str(path))
    form = WRITTEN_FORMATS.get(path.suffix.lower())
    if form is None:
        raise AudioError(
            f"{name}: audio is written as {' or '.join(WRITTEN_FORMATS)}. Give a name with one of these "
            "suffixes."
        )
    if form == "WAV" and _pcm_bytes(num_samples or 0, channels) > MAX_WAV_BYTES:
        form = "RF64"
    with atomic_file(path) as temporary, _WrittenFile(temporary, "w+") as file:
        try:
            sound = soundfile.SoundFile(
                file, "w", sample_rate, channels, "PCM_16", format=form, compression_level=compression
            )
        except (soundfile.SoundFileError, ValueError, TypeError, OverflowError) as error:
            file.check()
            raise AudioError(
                f"{name}: {channels} channels at {sample_rate} Hz cannot be written as {form} ({error})."
            ) from error
        with sound:
            yield AudioFileWriter(sound, file, name)
        file.check()


def write_audio(
    path: str | os.PathLike[str],
    samples: npt.ArrayLike,
    sample_rate: int,
    *,
    compression: float | None = None,
) -> Path:
    """Write samples `[S]` or `[C, S]` as 16-bit WAV or FLAC, by the suffix, and return the path.

    Raises AudioError for non-finite samples or another shape, and the errors of `audio_file`.
    """
    values: FloatArray = np.atleast_2d(np.asarray(samples, dtype=np.float32))
    if values.ndim != 2:
        raise AudioError(
            f"{printable(str(path))}: samples have shape {values.shape}, but [S] or [C, S] is needed."
        )
    channels, length = values.shape
    with audio_file(path, sample_rate, channels, num_samples=length, compression=compression) as file:
        for start in range(0, length, WRITTEN_AT_ONCE):
            file.write(values[:, start : start + WRITTEN_AT_ONCE])
    return Path(path)


def _pcm_bytes(samples: int, channels: int) -> int:
    return 2 * samples * channels

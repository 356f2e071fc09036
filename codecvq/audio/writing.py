"""Writing audio files."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codecvq.errors import AudioError
from codecvq.escaping import printable
from codecvq.files import write_atomically

WRITTEN_FORMATS = {".wav": "WAV", ".flac": "FLAC"}


def write_audio(
    path: str | os.PathLike[str],
    samples: npt.ArrayLike,
    sample_rate: int,
    *,
    compression: float | None = None,
) -> Path:
    """Write samples `[S]` or `[C, S]` as 16-bit WAV or FLAC, by the suffix, and return the path.

    Scales samples by 32768 and clamps them to the range of 16 bits. Reading divides by the same factor, so
    reading and writing 16-bit audio is lossless. `compression` is the FLAC compression level, from 0 (fast)
    to 1 (small). Raises AudioError for another suffix, non-finite samples, or a shape, sample rate or number
    of channels that the format does not support. Raises OSError if the file cannot be written.
    """
    import soundfile

    path = Path(path)
    name = printable(str(path))
    if path.suffix.lower() not in WRITTEN_FORMATS:
        raise AudioError(
            f"{name}: audio is written as {' or '.join(WRITTEN_FORMATS)}. Give a name with one of these "
            "suffixes."
        )
    values = np.atleast_2d(np.asarray(samples, dtype=np.float32))
    if values.ndim != 2:
        raise AudioError(f"{name}: samples have shape {values.shape}, but [S] or [C, S] is needed.")
    if not np.isfinite(values).all():
        raise AudioError(f"{name}: the samples to write are NaN or infinite. Check how they were computed.")
    pcm = np.clip(np.rint(values * 32768.0), -32768, 32767).astype(np.int16)
    file_format = WRITTEN_FORMATS[path.suffix.lower()]
    content = io.BytesIO()  # in memory: libsndfile does not report why writing to a disk fails
    try:
        soundfile.write(
            content, pcm.T, sample_rate, subtype="PCM_16", format=file_format, compression_level=compression
        )
    except (soundfile.SoundFileError, ValueError, TypeError, OverflowError) as error:
        raise AudioError(
            f"{name}: {len(pcm)} channels at {sample_rate} Hz cannot be written as {file_format} ({error})."
        ) from error
    write_atomically(path, content.getvalue())
    return path

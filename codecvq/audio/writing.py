"""Samples into a file."""

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
    """The path written: 16-bit WAV or FLAC by its suffix, from samples `[S]` or `[C, S]`.

    Samples beyond [-1, 1] are clamped. Scaled by 32768, as reading divides: 16-bit audio survives read and
    write bit by bit. `compression` is FLAC's, 0 (fast) to 1 (small). Raises AudioError for what the format
    cannot hold, and OSError where the file cannot be written.
    """
    import soundfile

    path = Path(path)
    name = printable(str(path))
    if path.suffix.lower() not in WRITTEN_FORMATS:
        raise AudioError(
            f"{name}: audio is written as {' or '.join(WRITTEN_FORMATS)}. Give a name that ends in one of "
            "them."
        )
    values = np.atleast_2d(np.asarray(samples, dtype=np.float32))
    if values.ndim != 2:
        raise AudioError(f"{name}: samples have shape {values.shape}, but [S] or [C, S] is needed.")
    if not np.isfinite(values).all():
        raise AudioError(f"{name}: samples to be written hold NaN or infinity. Look at what made them.")
    pcm = np.clip(np.rint(values * 32768.0), -32768, 32767).astype(np.int16)
    file_format = WRITTEN_FORMATS[path.suffix.lower()]
    content = io.BytesIO()  # in memory: libsndfile does not say why a disk refuses
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

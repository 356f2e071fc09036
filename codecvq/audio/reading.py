"""Reading a file, or a part of it, with whichever library knows it; and how long it is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np

from codecvq.audio.files import FFMPEG_SUFFIXES
from codecvq.audio.limits import is_plausible
from codecvq.audio.part import Audio, Part
from codecvq.errors import AudioError
from codecvq.escaping import printable
from codecvq.limits import LONGEST_S

G722_RATE = 16000  # Hz; 64 kbit/s, so that each byte holds two samples
#: Streams without a container, and MP3, whose headers often tell nothing: their length is known only once
#: they are decoded (FFmpeg guesses it from the bit rate).
UNTIMED_SUFFIXES = frozenset({".aac", ".ac3", ".amr", ".mp3"})


def read_audio(
    path: str | os.PathLike[str],
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    longest_s: float = LONGEST_S,
) -> Audio:
    """The samples of a file `[C, S]` at its own rate; with `start_s` or `duration_s` only that part.

    A part equals the same slice of the whole file, sample by sample; it is shorter where the file ends. What
    the file holds counts, not what its header says. Raises AudioError for what is not audio, holds no samples
    there, holds NaN or infinity, or is beyond what may be read at once: `longest_s` seconds, or the memory,
    rates and channels of `codecvq.audio.limits`.
    """
    path = check_regular_file(path)
    part = Part(printable(str(path)), start_s, duration_s, longest_s)
    if not (0 <= start_s < float("inf")) or (duration_s is not None and not 0 < duration_s < float("inf")):
        raise AudioError(
            f"{part.name}: start_s={start_s:g} and duration_s={duration_s} ask for no part of a file. "
            "Give start_s from 0 up and duration_s above 0, or leave them out."
        )
    audio = _read(path, part)
    if audio.samples.shape[-1] == 0:
        location = f" from {start_s:g} s on" if start_s else ""
        raise AudioError(
            f"{part.name} has no samples{location}. Replace the file, or leave it out of the corpus."
        )
    for channel in audio.samples:
        finite = np.isfinite(channel)
        if not finite.all():
            first_s = int(finite.argmin()) / audio.sample_rate + start_s
            raise AudioError(
                f"{part.name} has NaN or infinite samples, the first at {first_s:.3f} s. Write it anew, or "
                "leave it out."
            )
    return audio


def duration_s(path: str | os.PathLike[str]) -> float:
    """Length of a file in seconds, as far as can be told without decoding it.

    Headers are compared with what the file holds at its end. MP3, bare AAC and files whose header is wrong
    are decoded.
    """
    from codecvq.audio import ffmpeg, libsndfile

    path = check_regular_file(path)
    name, suffix = printable(str(path)), path.suffix.lower()
    if suffix == ".g722":
        return path.stat().st_size * 2 / G722_RATE
    length_s = libsndfile.duration_s(path, name) if suffix not in FFMPEG_SUFFIXES else None
    if length_s is None and suffix in FFMPEG_SUFFIXES - UNTIMED_SUFFIXES:
        length_s = ffmpeg.container_end_s(path)
        length_s = length_s if length_s is not None and is_plausible(length_s, path.stat().st_size) else None
    return length_s if length_s is not None else ffmpeg.decoded_duration_s(path, name)


def check_regular_file(path: str | os.PathLike[str]) -> Path:
    """The path of a file that can be read without waiting: no pipe, device or socket. Raises AudioError."""
    path = Path(path)
    name = printable(str(path))
    try:
        status = path.stat()
    except FileNotFoundError:
        raise AudioError(f"{name} does not exist. Check the path.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL, or what no filesystem can encode
        why = getattr(error, "strerror", None) or error
        raise AudioError(f"{name[:300]} cannot be opened ({why}). Check the path.") from error
    if stat.S_ISDIR(status.st_mode):
        raise AudioError(f"{name} is a folder, but one audio file is needed. Name a file in it.")
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(
            f"{name} is no regular file (a pipe, socket or device). Name a file that holds audio."
        )
    if status.st_size == 0:
        raise AudioError(f"{name} is empty (0 bytes). Replace the file, or leave it out of the corpus.")
    return path


def _read(path: Path, part: Part) -> Audio:
    from codecvq.audio import ffmpeg, libsndfile

    audio = libsndfile.read_samples(path, part) if path.suffix.lower() not in FFMPEG_SUFFIXES else None
    return audio or ffmpeg.read_samples(path, part)

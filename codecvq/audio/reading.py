"""Reading audio files and their durations with libsndfile or FFmpeg."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from codecvq.audio.files import FFMPEG_SUFFIXES
from codecvq.audio.limits import MAX_BLOCK_BYTES, is_plausible
from codecvq.audio.part import Audio, Part, concatenate, regroup
from codecvq.errors import AudioError
from codecvq.escaping import printable
from codecvq.limits import MAX_AUDIO_S

BLOCK_S = 10.0  # seconds of a block, by default
G722_RATE = 16000  # Hz; at 64 kbit/s, each byte has two samples
#: Formats without a reliable duration: streams without a container, and MP3. They must be decoded to find it
#: (FFmpeg estimates it from the bit rate).
UNTIMED_SUFFIXES = frozenset({".aac", ".ac3", ".amr", ".mp3"})


def read_audio(
    path: str | os.PathLike[str],
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    longest_s: float = MAX_AUDIO_S,
) -> Audio:
    """Read samples `[C, S]` of a file, or of its part from `start_s` with `duration_s`, at its sample rate.

    A part has exactly the samples of that slice of the whole file. It is shorter if the file ends earlier.
    The content of the file determines the length, not its header.

    Raises AudioError if the file is not audio, has no samples in the part, has non-finite samples, or exceeds
    `longest_s` seconds or the limits of `codecvq.audio.limits`. `read_blocks` reads longer recordings.
    """
    return concatenate(list(_blocks(path, start_s, duration_s, longest_s)))


def read_blocks(
    path: str | os.PathLike[str],
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    block_s: float = BLOCK_S,
) -> Iterator[Audio]:
    """Yield the samples of a file, or of its part, in blocks `[C, n]` of `block_s` seconds.

    The last block may be shorter, and blocks of many channels at a high sample rate have fewer seconds. The
    concatenated blocks equal the result of `read_audio`. The memory does not depend on the duration, which is
    at most `MAX_DECODED_S`.

    Raises the errors of `read_audio`, each when the iteration reaches it: discard what was read before.
    """
    if not block_s > 0:
        raise AudioError(f"block_s is {block_s:g}, but a duration above 0 is needed.")
    blocks = _blocks(path, start_s, duration_s, None)
    first = next(blocks)
    largest = MAX_BLOCK_BYTES // (4 * len(first.samples))
    size = max(1, round(min(block_s * first.sample_rate, largest)))
    yield from regroup(itertools.chain([first], blocks), size)


def duration_s(path: str | os.PathLike[str]) -> float:
    """Return the duration of a file in seconds, if possible without decoding it.

    Checks the header against the end of the file. Decodes MP3, raw AAC and files with a wrong header. Raises
    AudioError if the file cannot be read as audio.
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
    """Return the path of a non-empty regular file. Raises AudioError for all other paths."""
    path = Path(path)
    name = printable(str(path))
    try:
        status = path.stat()
    except FileNotFoundError:
        raise AudioError(f"{name} does not exist. Check the path.") from None
    except (OSError, ValueError) as error:  # ValueError: NUL or unencodable characters
        why = getattr(error, "strerror", None) or error
        raise AudioError(f"{name[:300]} cannot be opened ({why}). Check the path.") from error
    if stat.S_ISDIR(status.st_mode):
        raise AudioError(f"{name} is a folder, but an audio file is needed. Give a file in it.")
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(f"{name} is not a regular file (but a pipe, socket or device). Give an audio file.")
    if status.st_size == 0:
        raise AudioError(f"{name} is empty (0 bytes). Replace the file, or remove it from the corpus.")
    return path


def _blocks(
    path: str | os.PathLike[str], start_s: float, duration_s: float | None, longest_s: float | None
) -> Iterator[Audio]:
    """Yield at least one block, and no empty one. Raises the errors of `read_audio`."""
    path = check_regular_file(path)
    part = Part(printable(str(path)), start_s, duration_s, longest_s)
    if not (0 <= start_s < float("inf")) or (duration_s is not None and not 0 < duration_s < float("inf")):
        raise AudioError(
            f"{part.name}: start_s={start_s:g} and duration_s={duration_s} do not select a part of a file. "
            "Give start_s >= 0 and duration_s > 0, or omit them."
        )
    samples = 0
    for block in _decoded_blocks(path, part):
        _check_finite(block, part, samples)
        samples += block.samples.shape[1]
        if block.samples.shape[1]:
            yield block
    if not samples:
        location = f" from {start_s:g} s on" if start_s else ""
        raise AudioError(
            f"{part.name} has no samples{location}. Replace the file, or remove it from the corpus."
        )


def _decoded_blocks(path: Path, part: Part) -> Iterator[Audio]:
    from codecvq.audio import ffmpeg, libsndfile

    supported = False
    if path.suffix.lower() not in FFMPEG_SUFFIXES:
        supported = yield from libsndfile.read_blocks(path, part)
    if not supported:
        yield from ffmpeg.read_blocks(path, part)


def _check_finite(block: Audio, part: Part, samples: int) -> None:
    """Raise AudioError for NaN or infinity in a block after `samples` samples of the part."""
    finite = np.isfinite(block.samples).all(axis=0)
    if not finite.all():
        first_s = (samples + int(finite.argmin())) / block.sample_rate + part.start_s
        raise AudioError(
            f"{part.name} has NaN or infinite samples, the first at {first_s:.3f} s. Replace the "
            "file, or remove it from the corpus."
        )

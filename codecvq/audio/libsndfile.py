"""Reading audio with libsndfile.

This module differs from plain soundfile in three points:

- Files are read forward in blocks, without the seek that soundfile adds to every read. GSM, G.721 and
  NMS-ADPCM do not support it, and Vorbis and Opus return other samples after it. A seek is only
  used in formats where it is sample-accurate.
- The duration in the header is not trusted: all samples that the file has are read. If the duration in a FLAC
  header is wrong, FFmpeg reads the file.
- Concatenated files (chained Ogg or FLAC) are read link by link.

The memory is bounded: it does not depend on the size of a file.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import soundfile

from codecvq.audio.ffmpeg import container_end_samples, decoding_error
from codecvq.audio.files import RAW_RATES
from codecvq.audio.limits import FloatArray, ReadLimit, is_plausible
from codecvq.audio.links import Link, find_links
from codecvq.audio.part import Audio, Part
from codecvq.errors import AudioError

BLOCK = 1 << 16  # samples of all channels per read
MAX_SCANNED_BYTES = 4 << 20  # larger FLAC files are not searched for links to find their duration
UNKNOWN_FRAMES = 2**40  # more than a FLAC header can state; libsndfile returns more if the number is unknown

_UNRECOGNIZED, _UNSUPPORTED = (1, 4)  # error codes for formats that FFmpeg may support; others mean damage
_EXACT_FORMATS = frozenset({
    "WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC", "RAW", "AVR", "IRCAM", "VOC",
})  # fmt: skip
_EXACT_SUBTYPES = re.compile(r"PCM_\w+|FLOAT|DOUBLE|ULAW|ALAW|IMA_ADPCM|MS_ADPCM|ALAC_\w+")


class _ForwardFile(soundfile.SoundFile):
    """A sound file whose `read` does not seek."""

    def seekable(self) -> bool:
        return False

    @property
    def seeks_exactly(self) -> bool:
        """Whether reading after a seek returns the same samples as reading from the beginning."""
        return self.format in _EXACT_FORMATS and _EXACT_SUBTYPES.fullmatch(self.subtype) is not None


def read_blocks(path: Path, part: Part) -> Generator[Audio, None, bool]:
    """Yield a part of a file in blocks of any size. Returns False, without a block, if FFmpeg must read it.

    Raises AudioError for a damaged file, or if the part exceeds the limits of `ReadLimit`.
    """
    with _open(path) as file:
        if file is None or file.format == "MP3":
            return False
        limit = ReadLimit(part.name, file.samplerate, file.channels, part.longest_s)
        start, count = part.samples(file.samplerate)
        if count is None or start + count > file.frames or file.format == "OGG":
            if links := _links(path, file.format):
                yield from _limited(_chain(path, links, limit, start, count), limit)
                return True
            if file.format == "FLAC" and container_end_samples(path) != file.frames:
                return False
        left = max(0, file.frames - start) if file.frames < UNKNOWN_FRAMES else 0
        limit.check(left if count is None else min(left, count))
        first = 0
        if file.seeks_exactly and 0 < start < file.frames:
            first = file.seek(start)
        yield from _limited(_blocks(file, limit, first, start, count), limit)
        return True


def duration_s(path: Path, name: str) -> float | None:
    """Return the duration in seconds; None if FFmpeg must determine it. Raises AudioError for a damaged file.

    The duration is read from the header if that is correct; otherwise the samples are counted.
    """
    with _open(path) as file:
        if file is None or file.format == "MP3":
            return None
        limit, size = ReadLimit(name, file.samplerate, file.channels), path.stat().st_size
        header_s = file.frames / file.samplerate
        is_header_correct = file.format != "FLAC" or container_end_samples(path) == file.frames
        if not (is_header_correct and file.format == "FLAC" and size > MAX_SCANNED_BYTES) and (
            links := _links(path, file.format)
        ):
            return sum(len(block) for block in _chain(path, links, limit, 0, None)) / file.samplerate
        if file.format == "FLAC":
            return header_s if is_header_correct else None
        if file.format == "OGG" and is_plausible(header_s, size):
            return header_s
        if file.seeks_exactly and 0 < file.frames <= 8 * size:
            file.seek(file.frames - 1)
            if len(file.read(1)):
                return header_s
            file.seek(0)
        return sum(len(block) for block in _blocks(file, limit, 0, 0, None)) / file.samplerate


def _limited(blocks: Iterator[FloatArray], limit: ReadLimit) -> Iterator[Audio]:
    """Yield blocks `[n, C]` as audio. Raises AudioError if they exceed the limit."""
    samples = 0
    for block in blocks:
        samples += len(block)
        limit.check(samples)
        yield Audio(block.T, limit.sample_rate)


def _blocks(
    file: _ForwardFile, limit: ReadLimit, position: int, start: int, count: int | None
) -> Iterator[FloatArray]:
    """Yield samples `[n, C]` from `start`, at most `count`.

    `position` is the current position of `file`, at most `start`.
    """
    step = max(1, BLOCK // file.channels)
    returned = 0
    while (count is None or returned < count) and position < file.frames:
        block = file.read(min(step, file.frames - position), dtype="float32", always_2d=True)
        if not len(block):
            return
        selected = block[max(0, start - position) :]
        selected = selected if count is None else selected[: count - returned]
        position += len(block)
        returned += len(selected)
        limit.check_decoded(position)
        yield selected


@contextlib.contextmanager
def _open(path: Path) -> Iterator[_ForwardFile | None]:
    """Open a file; None if libsndfile does not support its format.

    Errors while opening it and in the `with` block become AudioErrors.
    """
    try:
        # soundfile encodes str as strict UTF-8, but file names may have other bytes
        name = os.fsencode(path) if os.name == "posix" else path
        file = _ForwardFile(name, **_raw_options(path))
    except soundfile.LibsndfileError as error:
        if error.code not in (_UNRECOGNIZED, _UNSUPPORTED):
            raise decoding_error(path, error.error_string) from error
        file = None
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise decoding_error(path, error) from error
    if file is None:
        yield None
        return
    try:
        with file:
            yield file
    except AudioError:
        raise
    except soundfile.LibsndfileError as error:
        raise decoding_error(path, error.error_string) from error
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        raise decoding_error(path, error) from error


def _raw_options(path: Path) -> dict[str, Any]:  # Any: keyword arguments of soundfile
    rate = RAW_RATES.get(path.suffix.lower())
    if rate is None:
        return {}
    return {"samplerate": rate, "channels": 1, "format": "RAW", "subtype": "PCM_16", "endian": "LITTLE"}


def _links(path: Path, file_format: str) -> list[tuple[int, int]]:
    try:
        return find_links(path, file_format)
    except ValueError as error:
        raise decoding_error(path, error) from error


def _chain(
    path: Path, links: list[tuple[int, int]], limit: ReadLimit, start: int, count: int | None
) -> Iterator[FloatArray]:
    """Yield samples `[n, C]` from `start`, at most `count`, of concatenated files."""
    position = returned = 0
    for begin, end in links:
        with Link(path, begin, end) as link, _ForwardFile(link) as file:
            if (file.samplerate, file.channels) != (limit.sample_rate, limit.channels):
                raise AudioError(
                    f"{limit.name} has concatenated files of different sample rates or channels. Split it "
                    "into files."
                )
            for block in _blocks(file, limit, 0, 0, None):
                selected = block[max(0, start - position) :]
                selected = selected if count is None else selected[: count - returned]
                position, returned = position + len(block), returned + len(selected)
                limit.check_decoded(position)
                yield selected
                if count is not None and returned >= count:
                    return

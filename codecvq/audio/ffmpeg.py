"""Reading audio with FFmpeg, through PyAV.

Files are decoded from the beginning, because seeking in these formats is not sample-accurate.

For security, only audio formats are opened (a playlist can name other files) and only audio decoders are
used. FFmpeg receives the bytes of the file and no protocols, so it cannot open other files.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from codecvq.audio.limits import ReadLimit
from codecvq.audio.part import Audio, Part
from codecvq.errors import AudioError
from codecvq.escaping import printable

#: FFmpeg's names of the accepted containers. No playlists (hls, concat), scripts, images or devices.
FORMATS = (
    "aac", "ac3", "aiff", "amr", "ape", "asf", "au", "caf", "eac3", "flac", "g722", "loas", "matroska", "mov",
    "mp3", "mpc", "mpc8", "nistsphere", "ogg", "tta", "voc", "w64", "wav", "wv",
)  # fmt: skip
PAST_END = 10**13  # in FFmpeg's microseconds: after the end of every file


class _Source(io.BufferedReader):
    """A file for FFmpeg. An invalid seek returns an error code instead of raising."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -errno.EINVAL


def read_blocks(path: Path, part: Part) -> Iterator[Audio]:
    """Yield a part of a file in blocks of any size.

    Raises AudioError for a damaged file or a part that exceeds `ReadLimit`.
    """
    with _open(path) as container:
        stream = container.streams.audio[0]
        limit, layout = _read_limit(part.name, stream, part.longest_s), stream.codec_context.layout
        # Converts only the sample format. The samples are interleaved: for more than eight planes (channels
        # in planar formats) av reads out of bounds.
        convert = av.AudioResampler(format="flt", layout=layout, rate=limit.sample_rate)
        start, count = part.samples(limit.sample_rate)
        decoded = returned = 0
        for frame in _frames(path, container):
            for block in convert.resample(frame):
                whole = block.to_ndarray().reshape(-1, limit.channels).T  # [C, n]
                selected = whole[:, max(0, start - decoded) :]
                decoded += block.samples
                selected = selected if count is None else selected[:, : count - returned]
                returned += selected.shape[1]
                limit.check_decoded(decoded)
                limit.check(returned)
                yield Audio(selected, limit.sample_rate)
            if count is not None and returned >= count:
                break


def decoded_duration_s(path: Path, name: str) -> float:
    """Return the duration in seconds by decoding the whole file. Raises AudioError."""
    with _open(path) as container:
        limit, samples = _read_limit(name, container.streams.audio[0]), 0
        for frame in _frames(path, container):
            samples += frame.samples if frame is not None else 0
            limit.check_decoded(samples)
        return samples / limit.sample_rate


def container_end_s(path: Path) -> float | None:
    """Return the end of the last packet in seconds; None if unknown.

    Raises AudioError like `read_samples`.
    """
    with _open(path) as container:
        _read_limit(printable(str(path)), container.streams.audio[0])
        return _container_end_s(container)


def container_end_samples(path: Path) -> int | None:
    """Return the end of the last packet in samples; None if unknown or if FFmpeg cannot read the file."""
    try:
        with _open(path) as container:
            end = _container_end_s(container)
            return None if end is None else round(end * (container.streams.audio[0].rate or 0))
    except AudioError:
        return None


def _container_end_s(container: Any) -> float | None:
    stream = container.streams.audio[0]
    with contextlib.suppress(av.FFmpegError):  # without an index, all packets are read
        container.seek(PAST_END)
    last = max(
        (packet.pts + (packet.duration or 0) for packet in container.demux(stream) if packet.pts is not None),
        default=None,
    )
    if last is None or stream.time_base is None:
        return None
    end = float((last - (stream.start_time or 0)) * stream.time_base)
    return end if end > 0 else None


def decoding_error(path: Path, why: object) -> AudioError:
    """Return the error for a file that is not audio or is damaged."""
    reason = printable(" ".join(str(why).split())).rstrip(". ") or type(why).__name__
    return AudioError(
        f"{printable(str(path))} cannot be decoded as audio ({reason}). Replace it, or remove it from the "
        "corpus."
    )


def _read_limit(name: str, stream: Any, longest_s: float | None = 0.0) -> ReadLimit:  # Any: av is untyped
    return ReadLimit(name, stream.rate, stream.codec_context.channels, longest_s)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:  # Any: av's containers carry no types here
    """Open a container with FFmpeg. Converts all exceptions about the file to AudioError."""
    options = {
        "format_whitelist": ",".join(FORMATS),
        "codec_whitelist": _audio_decoders(),
        "protocol_whitelist": "none",
    }
    file_format = "g722" if path.suffix.lower() == ".g722" else None
    try:
        with (
            _Source(path.open("rb", buffering=0)) as file,
            av.open(file, format=file_format, options=options, metadata_errors="replace") as container,
        ):
            if not container.streams.audio:
                raise AudioError(
                    f"{printable(str(path))} has no audio track. Give a file with audio, or remove it from "
                    "the corpus."
                )
            if container.streams.audio[0].codec_context is None:
                raise decoding_error(path, "there is no decoder for its codec")
            yield container
    except (av.FFmpegError, OSError, ValueError, RuntimeError, MemoryError, OverflowError) as error:
        raise decoding_error(path, getattr(error, "strerror", None) or error) from error


def _frames(path: Path, container: Any) -> Iterator[Any]:  # Any: av's containers and frames
    """Yield every frame, then None. None flushes the resampler.

    MP3 has no container: an undecodable packet may be a tag between two joined files, or the rest of a frame
    after a cut. As in the ffmpeg program, such packets are skipped, up to half of all packets.
    """
    skips_damage = container.format.name == "mp3"
    good = bad = 0
    for packet in container.demux(container.streams.audio[0]):
        try:
            frames = packet.decode()
            good += 1
        except av.InvalidDataError:
            if not skips_damage:
                raise
            bad += 1
            continue
        yield from frames
    if bad > good:
        raise decoding_error(path, f"{bad} of its {bad + good} packets are damaged")
    yield None


@functools.cache
def _audio_decoders() -> str:
    """FFmpeg's names of all audio decoders, separated by commas."""
    names = []
    for name in sorted(av.codecs_available):
        with contextlib.suppress(av.codec.codec.UnknownCodecError):  # has only an encoder
            if av.Codec(name, "r").type == "audio":
                names.append(name)
    return ",".join(names)

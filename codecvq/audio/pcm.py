"""Audio on binary streams such as pipes: WAV, or samples without a header.

A WAV header on a pipe has no valid size: programs write 0, 0xFFFFFFFF (ffmpeg), 0x80000000 (arecord) or
0x7FFFF000 (sox). Such audio ends with the stream.
"""

from __future__ import annotations

import io
import os
import struct
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from codecvq.audio.limits import HIGHEST_RATE, LOWEST_RATE, MAX_CHANNELS, FloatArray
from codecvq.errors import AudioError

RAW_FORMATS = {"s16le": "<i2", "f32le": "<f4"}  # numpy types of samples without a header
PCM_FORMATS = ("wav", *RAW_FORMATS)
_WAV_PCM, _WAV_FLOAT, _WAV_EXTENSIBLE = 1, 3, 0xFFFE  # format tags
_WAV_TYPES = {
    (_WAV_PCM, 8): "u1", (_WAV_PCM, 16): "<i2", (_WAV_PCM, 24): "<i3", (_WAV_PCM, 32): "<i4",
    (_WAV_FLOAT, 32): "<f4", (_WAV_FLOAT, 64): "<f8",
}  # fmt: skip
_LEAST_UNKNOWN_SIZE = 0x7FFF_F000  # from this size on, a header does not state the length
_MAX_HEADER_BYTES = 1 << 20  # before the samples
_MAX_FORMAT_BYTES = 1 << 10
_UNKNOWN_SIZE = 0xFFFF_FFFF
_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")  # of a WAV file with 16 bits per sample


class PcmReader:
    """Reads audio from a binary stream, and no bytes beyond those that it returns.

    `form` is "wav", or "s16le" or "f32le" for samples without a header, whose `sample_rate` (Hz) and number
    of `channels` must be given. A WAV header states both, and can have 8 to 32 bits per sample, or float.

    Raises AudioError for invalid audio, and if a header differs from the given rate or channels.
    """

    def __init__(
        self, stream: BinaryIO, form: str = "wav", sample_rate: int | None = None, channels: int | None = None
    ) -> None:
        self._stream = stream
        self._left: int | None = None  # bytes of samples; None: until the end of the stream
        self.num_samples = 0
        """Number of samples of each channel that were read."""
        if form == "wav":
            self._dtype, self.sample_rate, self.channels = self._read_header()
            _check_header(sample_rate, self.sample_rate, "sample rate", " Hz")
            _check_header(channels, self.channels, "number of channels")
        elif form in RAW_FORMATS:
            if sample_rate is None or channels is None:
                raise AudioError(
                    f"{form} audio has no header. Give its sample rate and its number of channels."
                )
            self._dtype, self.sample_rate, self.channels = RAW_FORMATS[form], sample_rate, channels
        else:
            raise _unknown_format(form)
        _check_properties(self.sample_rate, self.channels)
        self._sample_bytes = self.channels * int(self._dtype[-1])

    def read(self, count: int) -> FloatArray:
        """Return the next `count` samples, float32 `[C, count]` in [-1, 1]; fewer only at the end.

        An incomplete last sample is discarded. Raises AudioError for NaN or infinity.
        """
        size = count * self._sample_bytes
        data = self._take(size if self._left is None else min(size, self._left))
        if self._left is not None:
            self._left -= len(data)
        whole = data[: len(data) // self._sample_bytes * self._sample_bytes]
        samples = _floats(whole, self._dtype).reshape(-1, self.channels).T
        if not np.isfinite(samples).all():
            seconds = self.num_samples / self.sample_rate
            raise AudioError(
                f"the audio has NaN or infinite samples after {seconds:.2f} s. Check its format."
            )
        self.num_samples += samples.shape[1]
        return np.ascontiguousarray(samples)

    def _read_header(self) -> tuple[str, int, int]:
        """Read up to the first sample; return the type of samples, the sample rate and the channels."""
        start = self._take(12)
        if len(start) < 12 or start[:4] not in (b"RIFF", b"RF64") or start[8:] != b"WAVE":
            what = f"starts with {start!r}, which is no WAV header" if start else "is empty"
            raise AudioError(f"the audio {what}. Give WAV audio, or the format of samples without a header.")
        properties, used = None, 12
        while True:
            name, size = struct.unpack("<4sI", self._need(8))
            if name == b"data":
                break
            padded = size + size % 2
            used += 8 + padded
            limit = _MAX_FORMAT_BYTES if name == b"fmt " else _MAX_HEADER_BYTES - used
            if padded > limit:
                raise AudioError(f"the WAV header has a part {name!r} of {size:,} bytes. It is damaged.")
            data = self._need(padded)
            if name == b"fmt ":
                properties = _wav_properties(data[:size])
        if properties is None:
            raise AudioError("the WAV header does not state the format of its samples. It is damaged.")
        self._left = size if 0 < size < _LEAST_UNKNOWN_SIZE else None
        return properties

    def _need(self, count: int) -> bytes:
        data = self._take(count)
        if len(data) < count:
            raise AudioError("the audio ends within its WAV header. Check the program that writes it.")
        return data

    def _take(self, count: int) -> bytes:
        """Return the next `count` bytes, fewer at the end."""
        parts = []
        while count > 0:
            part = self._stream.read(count)
            if part is None:
                raise AudioError("the stream does not block and has no data yet. Open it in blocking mode.")
            if not part:
                break
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


class PcmWriter:
    """Writes audio to a binary stream; each `write` is flushed.

    `form` is "wav" (16 bits per sample), "s16le" or "f32le". A WAV header states no size on a pipe. In a
    file, `close` writes the sizes into the header. The stream stays open.

    Raises AudioError for an unknown format or an unsupported sample rate or number of channels.
    """

    def __init__(self, stream: BinaryIO, form: str, sample_rate: int, channels: int) -> None:
        if form not in PCM_FORMATS:
            raise _unknown_format(form)
        _check_properties(sample_rate, channels)
        self._stream, self.form, self.sample_rate, self.channels = stream, form, sample_rate, channels
        self._start = _position(stream)
        self.num_samples = 0
        """Number of samples of each channel that were written."""
        if form == "wav":
            self._put(self._header(_UNKNOWN_SIZE))

    def write(self, samples: FloatArray) -> None:
        """Write samples `[C, n]`. Integers are scaled by 32768 and clamped to 16 bits."""
        values = np.ascontiguousarray(samples.T)
        self._put(values.astype("<f4").tobytes() if self.form == "f32le" else to_int16(values).tobytes())
        self.num_samples += len(values)

    def close(self) -> None:
        """Write the sizes into the header of a WAV file; does nothing on a pipe."""
        size = 2 * self.channels * self.num_samples
        if self.form == "wav" and self._start is not None and size < _LEAST_UNKNOWN_SIZE:
            end = self._stream.seek(0, io.SEEK_CUR)
            self._stream.seek(self._start)
            self._put(self._header(size))
            self._stream.seek(end)

    def _header(self, size: int) -> bytes:
        sample_bytes = 2 * self.channels
        whole = _UNKNOWN_SIZE if size == _UNKNOWN_SIZE else size + _HEADER.size - 8
        return _HEADER.pack(
            b"RIFF", whole, b"WAVE", b"fmt ", 16, _WAV_PCM, self.channels, self.sample_rate,
            self.sample_rate * sample_bytes, sample_bytes, 16, b"data", size,
        )  # fmt: skip

    def _put(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._stream.write(rest) :]  # an unbuffered pipe may take only a part
        self._stream.flush()


def to_int16(samples: FloatArray) -> npt.NDArray[np.int16]:
    """Return samples as 16-bit integers: scaled by 32768, rounded and clamped."""
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2")


def _wav_properties(data: bytes) -> tuple[str, int, int]:
    """Return the type of samples, the sample rate and the channels of a `fmt ` part."""
    if len(data) < 16:
        raise AudioError("the WAV header has an incomplete format. It is damaged.")
    tag, channels, rate, _, block, bits = struct.unpack("<HHIIHH", data[:16])
    if tag == _WAV_EXTENSIBLE and len(data) >= 26:
        tag = struct.unpack("<H", data[24:26])[0]
    dtype = _WAV_TYPES.get((tag, bits))
    if dtype is None or block != channels * bits // 8:
        raise AudioError(
            f"the WAV audio has format {tag} with {bits} bits per sample; supported are integers of 8, 16, "
            "24 and 32 bits and floats of 32 and 64 bits. Convert it, for example to 16 bits."
        )
    return dtype, rate, channels


def _floats(data: bytes, dtype: str) -> FloatArray:
    """Return samples of one of the types as float32 in [-1, 1]."""
    if dtype == "<i3":
        values = np.zeros((len(data) // 3, 4), dtype=np.uint8)
        values[:, 1:] = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3)
        return values.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)
    values = np.frombuffer(data, dtype=dtype)
    if dtype == "u1":
        return (values.astype(np.float32) - 128) / np.float32(128)
    if dtype in ("<i2", "<i4"):
        return values.astype(np.float32) / np.float32(2 ** (8 * values.itemsize - 1))
    return values.astype(np.float32)


def _check_header(given: int | None, found: int, what: str, unit: str = "") -> None:
    if given is not None and given != found:
        raise AudioError(f"the WAV header states a {what} of {found}{unit}, but {given}{unit} is given.")


def _check_properties(sample_rate: int, channels: int) -> None:
    if not LOWEST_RATE <= sample_rate <= HIGHEST_RATE:
        raise AudioError(
            f"the audio has a sample rate of {sample_rate} Hz, but {LOWEST_RATE} to {HIGHEST_RATE} Hz are "
            "supported. Resample it."
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(
            f"the audio has {channels} channels, but 1 to {MAX_CHANNELS} are supported. Select some of them."
        )


def _unknown_format(form: str) -> AudioError:
    return AudioError(f"the audio format is {form!r}, but it must be one of {', '.join(PCM_FORMATS)}.")


def _position(stream: BinaryIO) -> int | None:
    """Return the position of a stream; None if written bytes cannot be replaced."""
    try:
        return stream.tell() if stream.seekable() and not _appends(stream) else None
    except OSError:
        return None


def _appends(stream: BinaryIO) -> bool:
    """Whether the stream writes at the end of its file only, as after `>>` in a shell."""
    try:
        import fcntl

        return bool(fcntl.fcntl(stream.fileno(), fcntl.F_GETFL) & os.O_APPEND)
    except (ImportError, OSError):  # OSError: a stream in memory
        return False

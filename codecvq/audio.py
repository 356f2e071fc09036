"""Audio files as float32 arrays `[C, S]` in [-1, 1], and back: reading, writing, resampling, finding.

soundfile (libsndfile) reads what it can: WAV, FLAC, Ogg, Opus, MP3, AIFF, NIST ... PyAV (FFmpeg) reads the
rest: m4a, aac, webm, wma, and G.722, which is a bare stream without a header. Both come as wheels with their
libraries inside. torchaudio is not used: from 2.9 on it reads no audio by itself.

A file that is no audio is a user's error: whatever a library raises about it becomes an `AudioError` of one
line.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from codecvq.errors import AudioError
from codecvq.files import write_atomically

if TYPE_CHECKING:
    import soundfile

FloatArray = npt.NDArray[np.float32]

#: What has no header: suffix -> Hz. `.sln*` are Asterisk's mono files, signed 16 bits, little-endian.
RAW_RATES = {
    ".sln": 8000, ".sln8": 8000, ".sln12": 12000, ".sln16": 16000, ".sln24": 24000,
    ".sln32": 32000, ".sln44": 44100, ".sln48": 48000, ".sln96": 96000, ".sln192": 192000,
}  # fmt: skip
G722_RATE = 16000  # Hz; 64 kbit/s, so that each byte holds two samples
SOUNDFILE_SUFFIXES = frozenset({
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".rf64",
    ".w64", ".sph", ".nist",
})  # fmt: skip
AV_SUFFIXES = frozenset({
    ".m4a", ".m4b", ".mp4", ".aac", ".ac3", ".webm", ".mka", ".mkv", ".mov", ".wma", ".amr", ".3gp", ".g722",
})  # fmt: skip
AUDIO_SUFFIXES = SOUNDFILE_SUFFIXES | AV_SUFFIXES | frozenset(RAW_RATES)
#: Where a part of a file costs no more than its length; elsewhere all that comes before it is decoded too.
SEEKABLE_SUFFIXES = (SOUNDFILE_SUFFIXES - {".mp3"}) | frozenset(RAW_RATES)
WRITTEN_FORMATS = {".wav": "WAV", ".flac": "FLAC"}
#: Streams without a container: their length is known only once they are decoded (FFmpeg guesses it from the
#: bit rate).
UNTIMED_SUFFIXES = frozenset({".aac", ".ac3", ".amr"})

_UNRECOGNISED, _UNSUPPORTED = (
    1,
    4,
)  # libsndfile's error codes for "another library may know it"; the rest means damage


@dataclass(frozen=True)
class Audio:
    """What a file holds: samples `[C, S]`, float32, in [-1, 1] unless a float file goes beyond."""

    samples: FloatArray
    sample_rate: int  # Hz

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.samples.shape[-1] / self.sample_rate


def read_audio(
    path: str | os.PathLike[str], *, start_s: float = 0.0, duration_s: float | None = None
) -> Audio:
    """The samples of a file `[C, S]` at its own rate; with `start_s` or `duration_s` only that part.

    A part equals the same slice of the whole file, sample by sample; it is shorter where the file ends.
    Raises AudioError for what is not audio, holds no samples there, or holds NaN or infinity.
    """
    path = _existing_file(path)
    if start_s < 0 or (duration_s is not None and duration_s <= 0):
        raise AudioError(
            f"{path}: start_s={start_s:g} and duration_s={duration_s} ask for no part of a file. "
            "Give start_s from 0 up and duration_s above 0, or leave them out."
        )
    audio = _read_soundfile(path, start_s, duration_s) if path.suffix.lower() not in AV_SUFFIXES else None
    audio = audio or _read_av(path, start_s, duration_s)
    if audio.samples.shape[-1] == 0:
        where = f" from {start_s:g} s on" if start_s else ""
        raise AudioError(f"{path} has no samples{where}. Replace the file, or leave it out of the corpus.")
    if not np.isfinite(audio.samples).all():
        first_s = np.flatnonzero(~np.isfinite(audio.samples).all(axis=0))[0] / audio.sample_rate + start_s
        raise AudioError(
            f"{path} has NaN or infinite samples, the first at {first_s:.3f} s. Write it anew, or leave "
            "it out."
        )
    return audio


def duration_s(path: str | os.PathLike[str]) -> float:
    """Length of a file in seconds, from its header or size; decoded only where neither tells (bare AAC)."""
    path = _existing_file(path)
    suffix = path.suffix.lower()
    if suffix == ".g722":
        return path.stat().st_size * 2 / G722_RATE
    if suffix not in AV_SUFFIXES and (header := _soundfile_header(path)):
        return header.frames / header.samplerate
    timed = None if suffix in UNTIMED_SUFFIXES else _av_duration_s(path)
    return timed if timed is not None else read_audio(path).duration_s


def write_audio(
    path: str | os.PathLike[str],
    samples: npt.ArrayLike,
    sample_rate: int,
    *,
    compression: float | None = None,
) -> Path:
    """The path written: 16-bit WAV or FLAC by its suffix, from samples `[S]` or `[C, S]`.

    Samples beyond [-1, 1] are clamped. Scaled by 32768, as reading divides: 16-bit audio survives read and
    write bit by bit. `compression` is FLAC's, 0 (fast) to 1 (small).
    """
    import soundfile

    path = Path(path)
    if path.suffix.lower() not in WRITTEN_FORMATS:
        raise AudioError(
            f"{path}: audio is written as {' or '.join(WRITTEN_FORMATS)}. Give a name that ends in one of "
            "them."
        )
    values = np.atleast_2d(np.asarray(samples, dtype=np.float32))
    if values.ndim != 2:
        raise AudioError(f"{path}: samples have shape {values.shape}, but [S] or [C, S] is needed.")
    if not np.isfinite(values).all():
        raise AudioError(f"{path}: samples to be written hold NaN or infinity. Look at what made them.")
    pcm = np.clip(np.rint(values * 32768.0), -32768, 32767).astype(np.int16)
    file = io.BytesIO()  # soundfile does not say that a disk is full
    soundfile.write(
        file, pcm.T, sample_rate, subtype="PCM_16", format=WRITTEN_FORMATS[path.suffix.lower()],
        compression_level=compression,
    )  # fmt: skip
    write_atomically(path, file.getvalue())
    return path


def resample(samples: FloatArray, from_rate: int, to_rate: int, quality: str = "VHQ") -> FloatArray:
    """Samples `[..., S]` at another rate, exactly `ceil(S * to_rate / from_rate)` of them; the same array
    where rates are equal.

    soxr with linear phase: no delay, and time 0 stays time 0. `quality` is soxr's, from "QQ" to "VHQ".
    """
    import soxr

    if from_rate <= 0 or to_rate <= 0:
        raise AudioError(f"cannot resample from {from_rate} Hz to {to_rate} Hz: both rates must be above 0.")
    if from_rate == to_rate:
        return samples
    length = -(-samples.shape[-1] * to_rate // from_rate)
    if samples.size == 0:
        return np.zeros((*samples.shape[:-1], length), dtype=np.float32)
    rows = samples.reshape(-1, samples.shape[-1]).astype(np.float32, copy=False)
    # soxr rounds the length to the nearest; silence behind the end lets it compute the last sample instead of
    # our guessing it
    rows = np.pad(rows, ((0, 0), (0, from_rate // to_rate + 2)))
    resampled = soxr.resample(np.ascontiguousarray(rows.T), from_rate, to_rate, quality=quality)  # [S, rows]
    return np.ascontiguousarray(resampled[:length].T).reshape(*samples.shape[:-1], length)


def to_mono(samples: FloatArray) -> FloatArray:
    """The mean of the channels: `[C, S]` -> `[S]`; `[S]` comes back as it is."""
    if samples.ndim == 1:
        return samples
    return samples[0] if samples.shape[0] == 1 else samples.mean(axis=0, dtype=np.float32)


def find_audio(folder: str | os.PathLike[str]) -> list[Path]:
    """Every audio file below a folder, by its suffix, sorted; links are followed, hidden names left out."""
    root = Path(folder)
    if not root.is_dir():
        raise AudioError(
            f"{root} is {'not a folder' if root.exists() else 'missing'}. Give a folder that holds audio "
            "files."
        )
    found: list[Path] = []
    seen: set[str] = set()
    for parent, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real in seen:  # a link to a folder above, or the same folder by two ways
            continue
        seen.add(real)
        found += [
            Path(parent, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES
        ]
    return sorted(found, key=lambda path: path.as_posix())


def _existing_file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.is_dir():
        raise AudioError(f"{path} is a folder, but one audio file is needed. Name a file in it.")
    if not path.is_file():
        raise AudioError(f"{path} does not exist. Check the path.")
    if path.stat().st_size == 0:
        raise AudioError(f"{path} is empty (0 bytes). Replace the file, or leave it out of the corpus.")
    return path


def _native(path: Path) -> Path | bytes:
    """The path as soundfile takes any: it encodes text strictly, and names need not be UTF-8."""
    return os.fsencode(path) if os.name == "posix" else path


def _sample_range(start_s: float, duration_s: float | None, sample_rate: int) -> tuple[int, int]:
    """First sample, and how many; -1 for all that follow."""
    return round(start_s * sample_rate), -1 if duration_s is None else max(1, round(duration_s * sample_rate))


def _raw_options(path: Path) -> dict[str, Any]:  # Any: what soundfile takes as keywords
    rate = RAW_RATES.get(path.suffix.lower())
    if rate is None:
        return {}
    return {"samplerate": rate, "channels": 1, "format": "RAW", "subtype": "PCM_16", "endian": "LITTLE"}


@contextlib.contextmanager
def _soundfile_errors(path: Path) -> Iterator[None]:
    """Turns damage that libsndfile reports into AudioError; lets what it does not know pass, for PyAV."""
    import soundfile

    try:
        yield
    except soundfile.LibsndfileError as error:
        if error.code in (_UNRECOGNISED, _UNSUPPORTED):
            raise
        raise _undecodable(path, error.error_string) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise _undecodable(path, error) from error


def _soundfile_header(path: Path) -> soundfile.SoundFile | None:
    """The header of a file, or None where libsndfile does not know its format."""
    import soundfile

    try:
        with _soundfile_errors(path), soundfile.SoundFile(_native(path), **_raw_options(path)) as file:
            return file
    except soundfile.LibsndfileError:
        return None


def _read_soundfile(path: Path, start_s: float, duration_s: float | None) -> Audio | None:
    """The part asked for, or None where libsndfile does not know the format."""
    import soundfile

    try:
        with _soundfile_errors(path), soundfile.SoundFile(_native(path), **_raw_options(path)) as file:
            start, count = _sample_range(start_s, duration_s, file.samplerate)
            if start >= file.frames:
                return Audio(np.zeros((file.channels, 0), dtype=np.float32), file.samplerate)
            # An MP3 frame leans on bits of earlier ones, and libsndfile decodes from the frame it seeks to:
            # what follows can be wrong for 10,000 samples. soundfile seeks after each read too: so, one read.
            skipped = start if file.format == "MP3" else 0
            file.seek(start - skipped)
            samples = file.read(count if count < 0 else skipped + count, dtype="float32", always_2d=True)
            return Audio(np.ascontiguousarray(samples[skipped:].T), file.samplerate)
    except soundfile.LibsndfileError:
        return None


@contextlib.contextmanager
def _av_open(path: Path) -> Iterator[Any]:  # Any: av's containers carry no types here
    """A container opened by FFmpeg; whatever it raises about the file is an AudioError."""
    import av

    try:
        # "file:" and the whitelist: a name like "a:b.m4a" is no protocol, and no file (a playlist, say) opens
        # a connection.
        form = "g722" if path.suffix.lower() == ".g722" else None
        with av.open(f"file:{path}", format=form, options={"protocol_whitelist": "file"}) as container:
            if not container.streams.audio:
                raise AudioError(
                    f"{path} has no audio track. Give a file with sound, or leave it out of the corpus."
                )
            yield container
    except (av.FFmpegError, OSError, ValueError) as error:
        raise _undecodable(path, error) from error


def _read_av(path: Path, start_s: float, duration_s: float | None) -> Audio:
    """The part asked for, decoded from the beginning: seeking in these streams is not exact to the sample."""
    import av

    with _av_open(path) as container:
        stream = container.streams.audio[0]
        rate, layout = stream.rate, stream.codec_context.layout
        # The format alone: the rate stays, so this only turns packed and integer samples into planar floats.
        convert = av.AudioResampler(format="fltp", layout=layout, rate=rate)
        start, count = _sample_range(start_s, duration_s, rate)
        end = None if count < 0 else start + count
        pieces, decoded = [], 0
        for frame in itertools.chain(container.decode(stream), [None]):
            for block in convert.resample(frame):
                pieces.append(block.to_ndarray()[:, max(0, start - decoded) :])
                decoded += block.samples
            if end is not None and decoded >= end:
                break
        samples = np.concatenate(pieces, axis=1) if pieces else np.zeros((1, 0), dtype=np.float32)
        return Audio(np.ascontiguousarray(samples[:, : None if count < 0 else count], dtype=np.float32), rate)


def _av_duration_s(path: Path) -> float | None:
    """Seconds that the container tells, if it does."""
    with _av_open(path) as container:
        stream = container.streams.audio[0]
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        return None if container.duration is None else container.duration / 1_000_000


def _undecodable(path: Path, why: object) -> AudioError:
    reason = " ".join(str(why).split()).replace(f": 'file:{path}'", "").rstrip(". ")
    return AudioError(
        f"{path} is not audio that can be decoded ({reason}). Replace it, or leave it out of the corpus."
    )

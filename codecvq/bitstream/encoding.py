"""`encode_file`: an audio file of any length to a `.cvq` file, in pieces."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codecvq.audio import FloatArray, MonoMixer, Resampler, read_blocks
from codecvq.bitstream.payload import Entropy
from codecvq.bitstream.writer import CvqWriter
from codecvq.codec.recordings import Codes, encode_blocks
from codecvq.codec.silence import SilenceDetector
from codecvq.errors import AudioError
from codecvq.escaping import printable
from codecvq.files import atomic_file

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec


@dataclass(frozen=True)
class EncodedFile:
    """The result of `encode_file`."""

    num_samples: int  # per channel, at `sample_rate`
    sample_rate: int  # Hz, of the recording
    channels: int
    num_bytes: int

    @property
    def duration_s(self) -> float:
        """Duration in seconds."""
        return self.num_samples / self.sample_rate


class Recording:
    """An audio file as input of a codec: its channels in groups of the codec's number of channels.

    With `mono`, the channels are averaged first. Raises AudioError if the file cannot be read.
    """

    def __init__(self, path: Path, codec: AudioCodec, mono: bool = False) -> None:
        self.path, self._codec, self._mono = path, codec, mono
        first = next(read_blocks(path))
        self.sample_rate, available = first.sample_rate, len(first.samples)
        self.channels = 1 if mono else available
        self.groups = -(-self.channels // codec.channels)
        self.num_samples = 0  # samples of each channel that the last call of `blocks` has read

    def blocks(self) -> Iterator[FloatArray]:
        """Yield the samples `[B, C, n]` at the codec's rate: B groups of C channels."""
        mixer = MonoMixer(printable(str(self.path)))
        resampler = Resampler(self.sample_rate, self._codec.sample_rate, self.channels)
        self.num_samples = 0
        for audio in read_blocks(self.path):
            samples = mixer.push(audio.samples)[None] if self._mono else audio.samples
            if (audio.sample_rate, len(samples)) != (self.sample_rate, self.channels):
                raise AudioError(f"{printable(str(self.path))} changed while it was read. Encode it again.")
            self.num_samples += samples.shape[1]
            yield channel_groups(resampler.push(samples), self._codec)
        mixer.flush()
        yield channel_groups(resampler.flush(), self._codec)


def channel_groups(samples: FloatArray, codec: AudioCodec) -> FloatArray:
    """Return samples `[channels, n]` as B groups of the C channels of a codec, `[B, C, n]`.

    The last group repeats its last channel if channels are missing.
    """
    groups = -(-len(samples) // codec.channels)
    missing = groups * codec.channels - len(samples)
    if missing:
        samples = np.concatenate([samples, np.repeat(samples[-1:], missing, axis=0)])
    return np.ascontiguousarray(samples).reshape(groups, codec.channels, -1)


def write_blocks(writer: CvqWriter, blocks: Iterable[Codes], detector: SilenceDetector | None) -> None:
    """Write codes `[B, N, t]`, with the silence that a detector finds in the audio."""
    waiting: Codes | None = None
    for codes in blocks:
        if detector is None:
            writer.write(codes)
            continue
        waiting = codes if waiting is None else np.concatenate([waiting, codes], axis=2)
        frames = min(detector.ready, waiting.shape[2])
        if frames:
            writer.write(waiting[:, :, :frames], detector.take(frames))
            waiting = waiting[:, :, frames:]


def encode_file(
    codec: AudioCodec,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    num_codebooks: int | None = None,
    mono: bool = False,
    entropy: Entropy = "auto",
    chunk_s: float = 1.0,
    silence_db: float | None = None,
) -> EncodedFile:
    """Encode an audio file to a `.cvq` file, and return its properties.

    The file has any format, sample rate, length and number of channels. Channels that exceed those of the
    codec are coded one by one, or averaged with `mono`. The codes equal those of the whole recording. With a
    codec that can encode streams, the memory does not depend on the length; other codecs encode up to an
    hour. For `entropy` and `chunk_s` see `CvqWriter`. With `silence_db`, frames whose samples stay below this
    level in dBFS are not stored, and decode to comfort noise; see `codecvq.codec.silence.SilenceDetector`.

    The target appears when it is complete. Raises AudioError for invalid audio, StreamingError for a
    recording that is too long for the codec, and OSError if the file cannot be written.
    """
    recording = Recording(Path(source), codec, mono)
    with atomic_file(Path(target)) as temporary, temporary.open("wb") as stream:
        writer = CvqWriter(
            stream, codec, channels=recording.channels, sample_rate=recording.sample_rate, entropy=entropy,
            chunk_s=chunk_s,
        )  # fmt: skip
        detector = None if silence_db is None else SilenceDetector(codec, silence_db)
        blocks = recording.blocks if detector is None else lambda: detector.watch(recording.blocks())
        write_blocks(writer, encode_blocks(codec, blocks, recording.groups, num_codebooks), detector)
        num_bytes = writer.close(recording.num_samples)
    return EncodedFile(recording.num_samples, recording.sample_rate, recording.channels, num_bytes)

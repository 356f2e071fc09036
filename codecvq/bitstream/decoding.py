"""`decode_file`: a `.cvq` file of any length to an audio file, in pieces."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codecvq.audio import FloatArray, Resampler, audio_file
from codecvq.audio.limits import MAX_DECODED_S
from codecvq.bitstream.reader import CvqReader, Gap
from codecvq.codec.recordings import Codes, context_frames, decode_blocks
from codecvq.codec.silence import ComfortNoise
from codecvq.errors import BitstreamError
from codecvq.json_file import open_regular

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec

RESAMPLING_CONTEXT_S = 0.5  # seconds that are resampled before a part; more than the filters of soxr need
SILENCE_AT_ONCE = 1 << 20  # samples


@dataclass(frozen=True)
class DecodedFile:
    """The result of `decode_file`."""

    num_samples: int  # per channel, at `sample_rate`
    sample_rate: int  # Hz
    channels: int
    gaps: tuple[Gap, ...]  # parts of a damaged file that are missing; silent in the audio

    @property
    def duration_s(self) -> float:
        """Duration in seconds."""
        return self.num_samples / self.sample_rate


def decode_file(
    codec: AudioCodec,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    codec_rate: bool = False,
    salvage: bool = False,
) -> DecodedFile:
    """Decode a `.cvq` file to a 16-bit WAV or FLAC file, and return its properties.

    The audio has exactly the number of samples, the channels and the sample rate of the original, or with
    `codec_rate` the sample rate of the codec. `start_s` and `end_s` select a part in seconds; only this part
    and the context before it are decoded. The part equals that of the whole, if the receptive field of the
    decoder is limited; otherwise it starts with a transition. With `salvage`, damaged parts of the file
    become silence, and `gaps` of the result lists them.

    With a codec that can decode streams, the memory does not depend on the length; other codecs decode up to
    an hour. The target appears when it is complete.

    Raises BitstreamError for a damaged file, another codec or an empty part, StreamingError for a recording
    that is too long for the codec, AudioError for a target that cannot store the recording, and OSError if
    the file cannot be written.
    """
    if not 0 <= start_s < math.inf or not (end_s is None or start_s < end_s < math.inf):
        raise BitstreamError(
            f"{start_s:g} s to {end_s} s is not a part of a recording. Give a start from 0 on and an end "
            "after it."
        )
    path = Path(source)
    try:
        with open_regular(path, error=BitstreamError, advice="Give the path of a .cvq file.") as stream:
            reader = CvqReader(stream, codec, longest_s=MAX_DECODED_S, salvage=salvage)
            part = _Part(reader, start_s, end_s, codec_rate)
            with audio_file(
                Path(target), part.sample_rate, reader.channels, num_samples=part.count
            ) as file:  # fmt: skip
                for samples in part.read(codec):
                    file.write(samples)
                if start_s and not file.samples:
                    raise BitstreamError(f"the recording ends before {start_s:g} s. Give an earlier start.")
    except BitstreamError as error:
        raise BitstreamError(f"{path}: {error}") from error
    return DecodedFile(file.samples, part.sample_rate, reader.channels, tuple(reader.gaps))


class _Part:
    """A part of the recording in a `.cvq` file.

    Letters: r rate of the codec, R rate of the result.
    """

    def __init__(self, reader: CvqReader, start_s: float, end_s: float | None, codec_rate: bool) -> None:
        self._reader = reader
        self.sample_rate = reader.sample_rate if codec_rate else reader.original_sample_rate
        length = reader.num_samples if codec_rate else reader.original_num_samples
        self._start = round(start_s * self.sample_rate)
        self._end = None if end_s is None else max(self._start + 1, round(end_s * self.sample_rate))
        if length is not None:
            self._end = length if self._end is None else min(self._end, length)

    @property
    def count(self) -> int | None:
        """Number of samples of the part; None if not known."""
        return None if self._end is None else max(0, self._end - self._start)

    def read(self, codec: AudioCodec) -> Iterator[FloatArray]:
        """Yield the samples `[channels, n]` of the part."""
        reader, rate = self._reader, self._reader.sample_rate
        if self.count == 0:
            return
        grid = rate // math.gcd(rate, self.sample_rate)  # samples at r between samples common to r and R
        before = self._start / self.sample_rate - RESAMPLING_CONTEXT_S
        first = max(0, math.floor(before * rate / grid)) * grid if self._start else 0
        first_frame = max(0, first // reader.hop_length - context_frames(codec))
        if first_frame:
            first_frame = reader.seek(first_frame)
        decoded = _decoded(codec, reader, first_frame)
        at_codec_rate = _cut(decoded, first - first_frame * reader.hop_length, self._codec_samples(first))
        resampled = _resampled(at_codec_rate, rate, self.sample_rate, reader.channels)
        skipped = self._start - first * self.sample_rate // rate
        yield from _cut(resampled, skipped, self.count)

    def _codec_samples(self, first: int) -> int | None:
        length = self._reader.num_samples
        return None if length is None else max(0, length - first)


def _decoded(codec: AudioCodec, reader: CvqReader, frame: int) -> Iterator[FloatArray]:
    """Yield the samples `[channels, n]` from a frame on, with silence where chunks are missing."""
    channels, hop = reader.channels, reader.hop_length
    chunks = iter(reader)
    chunk = next(chunks, None)

    def adjacent() -> Iterator[Codes]:
        nonlocal chunk, frame
        while chunk is not None and chunk.first_frame == frame:
            yield noise.filled(chunk.codes, chunk.silent)
            frame += chunk.codes.shape[2]
            chunk = next(chunks, None)

    while chunk is not None:
        yield from _silence(channels, (chunk.first_frame - frame) * hop)
        frame = chunk.first_frame
        noise = ComfortNoise(codec, frame)
        for samples in map(noise.added, decode_blocks(codec, adjacent(), reader.coded_channels)):  # [B, C, n]
            groups, each, count = samples.shape
            yield samples.reshape(groups * each, count)[:channels]
    yield from _silence(channels, (reader.frames or 0) * hop - frame * hop)


def _silence(channels: int, samples: int) -> Iterator[FloatArray]:
    for start in range(0, samples, SILENCE_AT_ONCE):
        yield np.zeros((channels, min(SILENCE_AT_ONCE, samples - start)), dtype=np.float32)


def _cut(blocks: Iterable[FloatArray], skipped: int, count: int | None) -> Iterator[FloatArray]:
    """Yield the samples of blocks `[channels, n]` after the first `skipped`, at most `count`."""
    for block in blocks:
        kept = block[:, skipped:]
        skipped = max(0, skipped - block.shape[1])
        kept = kept if count is None else kept[:, :count]
        count = None if count is None else count - kept.shape[1]
        yield kept
        if count == 0:
            return


def _resampled(
    blocks: Iterable[FloatArray], from_rate: int, to_rate: int, channels: int
) -> Iterator[FloatArray]:
    resampler = Resampler(from_rate, to_rate, channels)
    for block in blocks:
        yield resampler.push(block)
    yield resampler.flush()

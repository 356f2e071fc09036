"""Audio from a pipe to codes and back, block by block: `encode_pipe`, `decode_pipe` and `echo_pipe`.

Codes and samples equal those of `encode_file` and `decode_file`. Each block is written as soon as it is
determined. Letters: B streams (groups of channels), C channels of the codec, N codebooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from codecvq.audio import FloatArray, PcmReader, PcmWriter, Resampler
from codecvq.bitstream.decoding import DecodedFile
from codecvq.bitstream.encoding import EncodedFile, channel_groups, write_blocks
from codecvq.bitstream.reader import CvqReader
from codecvq.bitstream.writer import CvqWriter
from codecvq.codec.silence import ComfortNoise, SilenceDetector
from codecvq.errors import BitstreamError

if TYPE_CHECKING:
    from torch import Tensor

    from codecvq.api.codec import AudioCodec, DecoderStream, EncoderStream

BLOCK_S = 0.02  # seconds that are read at once
CHUNK_S = 0.1  # seconds of a chunk of the .cvq file


def encode_pipe(
    codec: AudioCodec,
    source: PcmReader,
    target: BinaryIO,
    *,
    num_codebooks: int | None = None,
    block_s: float = BLOCK_S,
    chunk_s: float = CHUNK_S,
    silence_db: float | None = None,
) -> EncodedFile:
    """Encode audio to a `.cvq` stream until the audio ends, and return its properties.

    The stream is that of `encode_file` with this `chunk_s`. Each chunk is written when its last frame is
    determined; with `silence_db`, a frame of at least 10 ms later. Raises StreamingError if the codec cannot
    encode streams, AudioError for invalid audio, and OSError if the target cannot be written.
    """
    encoder = codec.stream_encoder(-(-source.channels // codec.channels), num_codebooks)
    writer = CvqWriter(
        target, codec, channels=source.channels, sample_rate=source.sample_rate, chunk_s=chunk_s
    )  # fmt: skip
    detector, blocks = None, _blocks(codec, source, block_s)
    if silence_db is not None:
        detector = SilenceDetector(codec, silence_db)
        blocks = detector.watch(blocks)
    write_blocks(writer, (codes.cpu().numpy() for codes in _encoded(encoder, blocks)), detector)
    num_bytes = writer.close(source.num_samples)
    return EncodedFile(source.num_samples, source.sample_rate, source.channels, num_bytes)


def decode_pipe(
    codec: AudioCodec, source: BinaryIO, target: BinaryIO, form: str = "wav", sample_rate: int | None = None
) -> DecodedFile:
    """Decode a `.cvq` stream to audio until it ends, and return the properties of the audio.

    The audio has exactly the length and channels of the original, and its sample rate by default. For `form`
    see `PcmWriter`. On a pipe, the last frame of each chunk waits for the next chunk: only the end states
    which of its samples belong to the recording.

    Raises StreamingError if the codec cannot decode streams, BitstreamError for another codec and for a
    damaged file, after writing the audio before the damage, and OSError if the target cannot be written.
    """
    codec.stream_decoder()  # raises before the first byte arrives
    reader = CvqReader(source, codec)
    rate = reader.original_sample_rate if sample_rate is None else sample_rate
    writer = PcmWriter(target, form, rate, reader.channels)
    decoder, damage = codec.stream_decoder(reader.coded_channels), list[BitstreamError]()
    noise = ComfortNoise(codec)

    def codes() -> Iterator[Tensor]:
        import torch

        try:
            for chunk in reader:
                codes = noise.filled(chunk.codes, chunk.silent)
                yield torch.from_numpy(np.ascontiguousarray(codes, dtype=np.int64))
        except BitstreamError as error:
            damage.append(error)

    decoded = _decoded(decoder, codes(), reader.channels, noise.added)
    exact = _trimmed(decoded, lambda: reader.num_samples, codec.hop_length - 1)
    is_original = rate == reader.original_sample_rate
    _write(exact, writer, codec.sample_rate, lambda: reader.original_num_samples if is_original else None)
    if damage:
        raise damage[0]
    return DecodedFile(writer.num_samples, rate, reader.channels, ())


def echo_pipe(
    codec: AudioCodec,
    source: PcmReader,
    target: PcmWriter,
    *,
    num_codebooks: int | None = None,
    block_s: float = BLOCK_S,
) -> DecodedFile:
    """Encode and decode audio until it ends, and return the properties of the decoded audio.

    The target has the sample rate and channels of the source. Raises StreamingError if the codec cannot
    process streams, AudioError for invalid audio, and OSError if the target cannot be written.
    """
    groups = -(-source.channels // codec.channels)
    encoder, decoder = codec.stream_encoder(groups, num_codebooks), codec.stream_decoder(groups)
    coded = 0  # samples at the codec's rate

    def blocks() -> Iterator[FloatArray]:
        nonlocal coded
        for block in _blocks(codec, source, block_s):
            coded += block.shape[2]
            yield block

    decoded = _decoded(decoder, _encoded(encoder, blocks()), source.channels)
    # A frame is encoded when all its samples are there. Only the last one contains other samples.
    exact = _trimmed(decoded, lambda: coded, 0)
    _write(exact, target, codec.sample_rate, lambda: source.num_samples)
    return DecodedFile(target.num_samples, target.sample_rate, target.channels, ())


def _blocks(codec: AudioCodec, source: PcmReader, block_s: float) -> Iterator[FloatArray]:
    """Yield the samples `[B, C, n]` of the source at the codec's rate."""
    resampler = Resampler(source.sample_rate, codec.sample_rate, source.channels)
    count = max(1, round(block_s * source.sample_rate))
    while True:
        block = source.read(count)
        yield channel_groups(resampler.push(block), codec)
        if block.shape[1] < count:
            break
    yield channel_groups(resampler.flush(), codec)


def _encoded(encoder: EncoderStream, blocks: Iterable[FloatArray]) -> Iterator[Tensor]:
    """Yield the codes `[B, N, t]` of blocks `[B, C, n]`."""
    import torch

    for block in blocks:
        yield encoder.push(torch.from_numpy(block))
    yield encoder.flush()


def _decoded(
    decoder: DecoderStream,
    blocks: Iterable[Tensor],
    channels: int,
    finished: Callable[[FloatArray], FloatArray] = lambda samples: samples,
) -> Iterator[FloatArray]:
    """Yield the samples `[channels, n]` of codes `[B, N, t]`, after `finished` of samples `[B, C, n]`."""

    def joined(samples: Tensor) -> FloatArray:  # [B, C, n]
        audio = finished(samples.float().cpu().numpy())
        return audio.reshape(audio.shape[0] * audio.shape[1], audio.shape[2])[:channels]

    for block in blocks:
        yield joined(decoder.push(block))
    yield joined(decoder.flush())


def _trimmed(
    blocks: Iterable[FloatArray], length: Callable[[], int | None], surplus: int
) -> Iterator[FloatArray]:
    """Yield the first `length()` samples of blocks `[channels, n]`.

    While the length is None, the last `surplus` samples wait.
    """
    waiting: FloatArray | None = None
    count = 0  # samples yielded
    for block in blocks:
        waiting = block if waiting is None else np.concatenate([waiting, block], axis=1)
        available, limit = waiting.shape[1], length()
        ready = available - surplus if limit is None else min(available, limit - count)
        if ready > 0:
            yield waiting[:, :ready]
            waiting, count = waiting[:, ready:], count + ready
    if waiting is not None:
        limit = length()
        yield waiting if limit is None else waiting[:, : max(0, limit - count)]


def _write(
    blocks: Iterable[FloatArray], target: PcmWriter, rate: int, length: Callable[[], int | None]
) -> None:
    """Resample blocks `[channels, n]` at a rate, and write at most `length()` samples.

    `length` is called after the last block.
    """
    resampler = Resampler(rate, target.sample_rate, target.channels)
    for block in blocks:
        target.write(resampler.push(block))
    rest, limit = resampler.flush(), length()
    target.write(rest if limit is None else rest[:, : max(0, limit - target.num_samples)])
    target.close()

"""`StreamSpeed`: the time that a codec takes for the blocks of a stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from codecvq.api.codec import AudioCodec

WARM_UP_BLOCKS = 10


@dataclass(frozen=True)
class BlockTimes:
    """Times of the blocks of a stream."""

    real_time_factor: float  # time of all blocks / duration of their audio; below 1 is faster than real time
    median_ms: float
    p99_ms: float  # 99th percentile

    @classmethod
    def of(cls, times_s: Sequence[float], block_s: float) -> BlockTimes:
        """Return the statistics of the times of blocks of `block_s` seconds."""
        median, p99 = np.percentile(times_s, [50, 99])
        return cls(float(np.mean(times_s)) / block_s, 1000 * float(median), 1000 * float(p99))


@dataclass(frozen=True)
class StreamSpeed:
    """Times of encoding and decoding a stream block by block."""

    block_ms: float
    blocks: int
    batch: int  # streams that are processed together; times are those of the batch
    encode: BlockTimes
    decode: BlockTimes


def measure_stream(
    codec: AudioCodec,
    samples: Tensor,
    block_s: float = 0.02,
    clock: Callable[[], float] = time.perf_counter,
) -> StreamSpeed:
    """Encode and decode audio `[B, C, S]` at the codec's rate in blocks of `block_s` seconds, and time them.

    The decoder gets the codes of each block of the encoder. The first blocks are processed once before, to
    warm up, and an incomplete last block is discarded. `clock` returns seconds. Raises StreamingError if the
    codec cannot process streams.
    """
    size = max(1, round(block_s * codec.sample_rate))
    blocks = [block for block in samples.split(size, dim=2) if block.shape[2] == size]
    encoder, decoder = codec.stream_encoder(len(samples)), codec.stream_decoder(len(samples))
    for block in blocks[:WARM_UP_BLOCKS]:
        decoder.push(encoder.push(block))
    encoder.reset()
    decoder.reset()
    encode_s, decode_s = [], []
    for block in blocks:
        start = clock()
        codes = encoder.push(block).cpu()  # on a GPU, the copy waits for the computation
        encoded = clock()
        decoder.push(codes).cpu()
        encode_s.append(encoded - start)
        decode_s.append(clock() - encoded)
    length_s = size / codec.sample_rate
    return StreamSpeed(
        1000 * length_s,
        len(blocks),
        len(samples),
        BlockTimes.of(encode_s, length_s),
        BlockTimes.of(decode_s, length_s),
    )


def bundled_speech(codec: AudioCodec, seconds: float, batch: int = 1) -> Tensor:
    """Return the bundled prompts at the codec's rate, repeated to `seconds`: `[batch, C, S]`.

    Batch items begin at different samples.
    """
    import torch

    from codecvq.data import open_corpus

    whole = np.concatenate([clip.read(codec.sample_rate) for clip in open_corpus("prompts")])
    count = round(seconds * codec.sample_rate)
    items = [np.resize(np.roll(whole, -item * len(whole) // batch), count) for item in range(batch)]
    return torch.from_numpy(np.stack(items))[:, None].repeat(1, codec.channels, 1)

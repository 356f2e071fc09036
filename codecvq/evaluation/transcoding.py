"""Encoding and decoding of a long clip as a stream, with the time of both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from codecvq.audio import Resampler
from codecvq.codec.recordings import decode_blocks, encode_blocks
from codecvq.errors import CodecvqError

if TYPE_CHECKING:
    import torch

    from codecvq.api.codec import AudioCodec

Samples = npt.NDArray[np.float32]
Item = TypeVar("Item")


def now(device: torch.device) -> float:
    """Return the time in seconds, after synchronization with the device."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


class Transcoding:
    """A pass of a mono recording through a codec, whose channels get the same samples.

    `blocks` runs it; the other attributes are its results. `recording` returns blocks `[n]` of the whole
    recording at `sample_rate`, by default that of the codec; it is called more than once.
    """

    def __init__(
        self,
        codec: AudioCodec,
        recording: Callable[[], Iterable[Samples]],
        num_codebooks: int | None = None,
        sample_rate: int | None = None,
    ) -> None:
        self._codec, self._recording, self._num_codebooks = codec, recording, num_codebooks
        self._sample_rate = sample_rate or codec.sample_rate
        self._codes: list[npt.NDArray[np.integer[Any]]] = []
        self._times: dict[str, float] = {}  # of each step, with the steps before it
        self.num_samples = 0  # at the rate of the codec

    def blocks(self) -> Iterator[tuple[Samples, Samples]]:
        """Yield new samples `[n]` of the recording and the decoded ones at their place.

        Raises CodecvqError if there are fewer decoded samples, or if one is NaN or infinity.
        """
        encoded = encode_blocks(self._codec, self._input, num_codebooks=self._num_codebooks)
        decoded = decode_blocks(self._codec, map(self._kept, self._timed("encode", encoded)))
        original = Reader(self._recording())
        for samples in self._output(self._timed("decode", decoded)):
            if not np.isfinite(samples).all():
                raise CodecvqError("decoded to NaN or infinity")
            reference = original.take(samples.size)
            yield reference, samples[: reference.size]
        count = original.taken
        if original.take(1).size:
            raise CodecvqError(f"decoded to {count} samples, but the original is longer")

    def _input(self) -> Iterator[Samples]:
        """Yield blocks `[1, C, n]` at the rate of the codec."""
        self.num_samples = 0
        resampler = Resampler(self._sample_rate, self._codec.sample_rate)
        resampled = (resampler.push(block[None]) for block in self._recording())
        for block in self._timed("read", chain(resampled, map(Resampler.flush, [resampler]))):
            self.num_samples += block.shape[1]
            yield np.broadcast_to(block, (1, self._codec.channels, block.shape[1])).copy()

    def _output(self, decoded: Iterable[Samples]) -> Iterator[Samples]:
        """Yield the decoded samples `[n]` at the rate of the recording."""
        resampler, count = Resampler(self._codec.sample_rate, self._sample_rate), 0
        for block in decoded:
            mono = block[0].mean(axis=0, keepdims=True)[:, : self.num_samples - count]  # without padding
            count += mono.shape[1]
            yield resampler.push(mono)[0]
        yield resampler.flush()[0]

    def _kept(self, codes: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.integer[Any]]:
        largest = max(self._codec.codebook_sizes)
        self._codes.append(codes[0].astype(np.int32 if largest <= 2**31 else np.int64))
        return codes

    def _timed(self, step: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, and add the time that they take to the time of the step."""
        device, iterator = self._codec.device, iter(items)
        while True:
            start = now(device)
            item = next(iterator, None)
            self._times[step] = self._times.get(step, 0.0) + now(device) - start
            if item is None:
                return
            yield item

    def codes(self) -> npt.NDArray[np.integer[Any]]:
        """Return the codes `[N, T]`."""
        return np.concatenate(self._codes, axis=1)

    @property
    def encode_s(self) -> float:
        """Seconds of encoding, without reading."""
        return self._times["encode"] - self._times["read"]

    @property
    def decode_s(self) -> float:
        """Seconds of decoding."""
        return self._times["decode"] - self._times["encode"]


class Reader:
    """Reads any number of samples at once from blocks `[n]`."""

    def __init__(self, blocks: Iterable[Samples]) -> None:
        self.blocks = iter(blocks)
        self._waiting: Samples = np.zeros(0, dtype=np.float32)
        self.taken = 0

    def take(self, count: int) -> Samples:
        """Return the next `count` samples, or fewer at the end."""
        while self._waiting.size < count and (block := next(self.blocks, None)) is not None:
            self._waiting = np.concatenate([self._waiting, block])
        samples, self._waiting = self._waiting[:count], self._waiting[count:].copy()
        self.taken += samples.size
        return samples

"""Resampling with soxr, of whole recordings and in pieces."""

from __future__ import annotations

import numpy as np

from codecvq.audio.limits import HIGHEST_RATE, LOWEST_RATE, FloatArray
from codecvq.errors import AudioError

MAX_RATIO = HIGHEST_RATE // LOWEST_RATE  # maximum ratio of the sample rates
QUALITY = "VHQ"  # of soxr
SAMPLES_AT_ONCE = 1 << 16  # soxr becomes slower for longer input


class Resampler:
    """Resamples recordings in pieces.

    The concatenated results of `push` and `flush` equal `resample` of the whole recording, bit for bit, for
    any partition. `quality` is the name of a quality of soxr, from "QQ" to "VHQ". Raises AudioError if a rate
    is not above 0, or if one rate is more than 768 times the other.
    """

    def __init__(self, from_rate: int, to_rate: int, channels: int = 1, quality: str = QUALITY) -> None:
        if from_rate <= 0 or to_rate <= 0:
            raise AudioError(
                f"cannot resample from {from_rate} Hz to {to_rate} Hz: both rates must be above 0."
            )
        if max(from_rate, to_rate) > MAX_RATIO * min(from_rate, to_rate):
            raise AudioError(
                f"cannot resample from {from_rate} Hz to {to_rate} Hz: one is more than {MAX_RATIO} times "
                "the other. Check the sample rates."
            )
        self.from_rate, self.to_rate, self.channels = from_rate, to_rate, channels
        self._stream = None
        if from_rate != to_rate:
            import soxr

            self._stream = soxr.ResampleStream(from_rate, to_rate, channels, "float32", quality)
        self._pushed = self._returned = 0

    def push(self, samples: FloatArray) -> FloatArray:
        """Resample samples `[C, n]`. Returns the samples `[C, m]` that are determined by now."""
        self._pushed += samples.shape[1]
        return samples if self._stream is None else self._process(samples)

    def flush(self) -> FloatArray:
        """End the recording, and return its remaining samples `[C, m]`. The next push begins another one.

        A recording of S samples has `ceil(S * to_rate / from_rate)` resampled ones.
        """
        rest: FloatArray = np.zeros((self.channels, 0), dtype=np.float32)
        if self._stream is not None and self._pushed:
            length, returned = -(-self._pushed * self.to_rate // self.from_rate), self._returned
            # soxr rounds the length to the nearest integer; after silence it also computes the last sample
            silence = np.zeros((self.channels, self.from_rate // self.to_rate + 2), dtype=np.float32)
            rest = np.concatenate([self._process(silence), self._process(rest, last=True)], axis=1)
            rest = rest[:, : length - returned]
            self._stream.clear()
        self._pushed = self._returned = 0
        return rest

    def _process(self, samples: FloatArray, last: bool = False) -> FloatArray:
        assert self._stream is not None, "needed only for different rates"
        rows = samples.T.astype(np.float32, order="C", copy=False)  # [n, C]
        blocks = [rows[at : at + SAMPLES_AT_ONCE] for at in range(0, len(rows), SAMPLES_AT_ONCE)] or [rows]
        resampled = [self._stream.resample_chunk(block, last) for block in blocks]
        whole: FloatArray = np.ascontiguousarray(np.concatenate(resampled).T)
        self._returned += whole.shape[1]
        return whole


def resample(samples: FloatArray, from_rate: int, to_rate: int, quality: str = QUALITY) -> FloatArray:
    """Resample `[..., S]` to exactly `ceil(S * to_rate / from_rate)` samples.

    Uses soxr with linear phase and without delay. Returns the same array if the rates are equal. For
    `quality` and errors see `Resampler`.
    """
    shape, length = samples.shape[:-1], samples.shape[-1]
    resampler = Resampler(from_rate, to_rate, max(1, int(np.prod(shape, dtype=np.int64))), quality)
    if from_rate == to_rate:
        return samples
    if samples.size == 0:
        return np.zeros((*shape, -(-length * to_rate // from_rate)), dtype=np.float32)
    pushed = resampler.push(samples.reshape(-1, length))
    return np.concatenate([pushed, resampler.flush()], axis=1).reshape(*shape, -1)

"""`Part`, a request to read a part of a file, and `Audio`, samples of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from codecvq.audio.limits import FloatArray
from codecvq.limits import MAX_AUDIO_S

PAST_END_S = 1e9  # after the end of every file


@dataclass(frozen=True)
class Audio:
    """Float32 samples `[C, S]` with their sample rate, in [-1, 1] unless a float file exceeds it."""

    samples: FloatArray
    sample_rate: int  # Hz

    @property
    def duration_s(self) -> float:
        """Duration in seconds."""
        return self.samples.shape[-1] / self.sample_rate


@dataclass(frozen=True)
class Part:
    """A part of a file; by default the whole file."""

    name: str  # of the file, for messages
    start_s: float = 0.0
    duration_s: float | None = None  # None: to the end of the file
    longest_s: float | None = MAX_AUDIO_S  # a longer part raises AudioError; None: it is read in blocks

    def samples(self, sample_rate: int) -> tuple[int, int | None]:
        """Return the index of the first sample and the number of samples.

        The number is at least 1; None: to the end of the file.
        """
        count = (
            None if self.duration_s is None else max(1, round(min(self.duration_s, PAST_END_S) * sample_rate))
        )
        return round(min(self.start_s, PAST_END_S) * sample_rate), count


def concatenate(blocks: list[Audio]) -> Audio:
    """Concatenate one or more blocks. Empties the list, freeing each block once it is copied."""
    first = blocks[0]
    length = sum(block.samples.shape[1] for block in blocks)
    samples = np.empty((len(first.samples), length), dtype=np.float32)
    at = 0
    blocks.reverse()
    while blocks:
        block = blocks.pop().samples
        samples[:, at : at + block.shape[1]] = block
        at += block.shape[1]
    return Audio(samples, first.sample_rate)


def regroup(blocks: Iterable[Audio], size: int) -> Iterator[Audio]:
    """Yield the same samples in blocks of `size` samples; the last may be shorter."""
    waiting, count = list[Audio](), 0
    for block in blocks:
        waiting.append(block)
        count += block.samples.shape[1]
        if count < size:
            continue
        whole = concatenate(waiting)
        for start in range(0, count - size + 1, size):
            yield Audio(np.ascontiguousarray(whole.samples[:, start : start + size]), whole.sample_rate)
        count %= size
        waiting = [Audio(whole.samples[:, whole.samples.shape[1] - count :].copy(), whole.sample_rate)]
    if count:
        yield concatenate(waiting)

"""Cutting long recordings into pieces at silences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from codecvq.audio.limits import FloatArray

QUIET_S = 0.1  # duration of the silence at a cut, in seconds
SHORTEST_PART = 0.5  # pieces except the last have at least this part of the maximum length


def cut_at_silences(blocks: Iterable[FloatArray], sample_rate: int, max_s: float) -> Iterator[FloatArray]:
    """Yield the samples of mono blocks `[n]` in pieces of at most `max_s` seconds.

    Each cut is in the middle of the quietest 100 ms of the second half of its piece; of equally quiet ones,
    the last. The concatenated pieces equal the concatenated blocks. The memory is that of two pieces.
    """
    longest = max(1, round(max_s * sample_rate))
    waiting: list[FloatArray] = []
    count = 0
    for block in blocks:
        waiting.append(block)
        count += block.size
        if count <= longest:
            continue
        samples = np.concatenate(waiting)
        while samples.size > longest:
            end = _quietest(samples[:longest], round(QUIET_S * sample_rate))
            yield samples[:end].copy()
            samples = samples[end:]
        waiting, count = [samples.copy()], samples.size
    if count:
        yield np.concatenate(waiting)


def _quietest(samples: FloatArray, window: int) -> int:
    """Return the middle of the quietest window of the later part of the samples; at least 1."""
    start = int(samples.size * SHORTEST_PART)
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples[start:], dtype=np.float64))])
    window = min(window, energy.size - 1)
    sums = energy[window:] - energy[: energy.size - window]
    last = sums.size - 1 - int(np.argmin(sums[::-1]))
    return max(1, start + last + window // 2)

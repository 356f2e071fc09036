"""The range coder, which is constriction's: digits to bytes and back under integer weights.

No rounding decides. constriction takes floats, scales them by (2^24 - R) / their sum, R being the alphabet,
and adds 1 to each so that none is 0. The weights given to it are whole numbers whose sum *is* 2^24 - R: the
factor is 1.0, every step exact, and the frequency of digit i is its weight + 1 on any processor. A test
decodes with a plain integer range decoder to hold it to that.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from codecvq.errors import BitstreamError

PRECISION = 24  # bits of a frequency, fixed in constriction's range coder

Integers = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]


class RangeEncoder:
    """Collects digits and gives the bytes that they take."""

    def __init__(self) -> None:
        from constriction import stream

        self._family, self._coder = stream.model.Categorical(perfect=False), stream.queue.RangeEncoder()

    def encode(self, digits: Integers, weights: Weights) -> None:
        """Append digits `[P]` under weights `[P, R]` of `scale_counts`."""
        self._coder.encode(digits.astype(np.int32), self._family, weights)

    def to_bytes(self) -> bytes:
        """The bytes of all digits, which end where zeros can stand for the rest."""
        return _shortest(self._coder.get_compressed(), *self._coder.pos())


class RangeDecoder:
    """Reads the digits from what a `RangeEncoder` gave, given the same weights."""

    def __init__(self, data: bytes) -> None:
        from constriction import stream

        words = np.frombuffer(data + bytes(8 + -len(data) % 4), dtype=">u4").astype(np.uint32)
        self._family, self._coder = stream.model.Categorical(perfect=False), stream.queue.RangeDecoder(words)

    def decode(self, weights: Weights, limits: Integers | int) -> Integers:
        """The next digits `[P]`, each below its limit. Raises BitstreamError for bytes that no encoder
        writes.
        """
        try:
            digits = self._coder.decode(self._family, weights).astype(np.int64)
        except (AssertionError, ValueError) as error:  # how constriction refuses bytes of no encoder
            raise BitstreamError(f"the entropy-coded payload cannot be decoded ({error}).") from error
        if (digits >= limits).any():
            raise BitstreamError("the entropy-coded payload holds a digit beyond its alphabet.")
        return digits


def scale_counts(counts: Integers, columns: int) -> Integers:
    """Counts `[P, R]` scaled so that the sum of each row is 2^24 less `columns`."""
    scaled = np.cumsum(counts, axis=1)
    scaled = scaled * ((1 << PRECISION) - columns) // scaled[:, -1:]
    scaled[:, 1:] -= scaled[:, :-1].copy()
    return scaled


def _shortest(words: npt.NDArray[np.uint32], position: int, state: tuple[int, int]) -> bytes:
    """The fewest bytes, zeros understood behind them, that lie in the encoder's last interval; constriction
    ends on whole words.

    `state` is (lower, range), 64 bits that begin at word `position`. Some number in the interval is what the
    words say, so its distance from `lower` (mod 2^64) gives the interval's begin with all carries done.
    """
    lower, width = state
    total = 32 * (position + 2)  # bits up to which lower is known
    number = int.from_bytes(words.astype(">u4").tobytes(), "big") << total - 32 * len(words)
    begin = number - ((number - lower) & 0xFFFF_FFFF_FFFF_FFFF)
    for length in range(4 * max(0, position - 1), total // 8 + 1):
        drop = total - 8 * length
        candidate = -(-begin >> drop)
        if candidate << drop < begin + width:
            return candidate.to_bytes(length, "big").rstrip(b"\0")
    raise AssertionError(f"no number in the range coder's interval of {width} within {total} bits")

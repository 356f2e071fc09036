"""Range coding of digits with integer weights, by the package constriction.

The result does not depend on floating-point rounding. constriction takes floats, scales them by
(2^24 - R) / sum for an alphabet of size R, and adds 1 to each so that none is 0. The weights passed to it
here are integers that sum to exactly 2^24 - R. So the factor is 1.0, every step is exact, and the frequency
of digit i is its weight + 1 on every processor. A test verifies this with a plain integer range decoder.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from codecvq.errors import BitstreamError

PRECISION = 24  # bits of a frequency, fixed in constriction's range coder

Integers = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]


class RangeEncoder:
    """Encodes digits to bytes."""

    def __init__(self) -> None:
        from constriction import stream

        self._family, self._coder = stream.model.Categorical(perfect=False), stream.queue.RangeEncoder()

    def encode(self, digits: Integers, weights: Weights) -> None:
        """Append digits `[P]` with weights `[P, R]` from `scale_counts`."""
        self._coder.encode(digits.astype(np.int32), self._family, weights)

    def to_bytes(self) -> bytes:
        """Return the bytes of all digits, without trailing zero bytes."""
        return _shortest(self._coder.get_compressed(), *self._coder.pos())


class RangeDecoder:
    """Decodes the bytes of a `RangeEncoder`, with the same weights."""

    def __init__(self, data: bytes) -> None:
        from constriction import stream

        words = np.frombuffer(data + bytes(8 + -len(data) % 4), dtype=">u4").astype(np.uint32)
        self._family, self._coder = stream.model.Categorical(perfect=False), stream.queue.RangeDecoder(words)

    def decode(self, weights: Weights, limits: Integers | int) -> Integers:
        """Return the next digits `[P]`, each below its limit.

        Raises BitstreamError for bytes that no encoder produces.
        """
        try:
            digits = self._coder.decode(self._family, weights).astype(np.int64)
        except (AssertionError, ValueError) as error:  # constriction raises these for invalid bytes
            raise BitstreamError(f"the entropy-coded payload cannot be decoded ({error}).") from error
        if (digits >= limits).any():
            raise BitstreamError("the entropy-coded payload has a digit outside its alphabet.")
        return digits


def scale_counts(counts: Integers, columns: int) -> Integers:
    """Scale counts `[P, R]` so that each row sums to 2^24 minus `columns`."""
    scaled = np.cumsum(counts, axis=1)
    scaled = scaled * ((1 << PRECISION) - columns) // scaled[:, -1:]
    scaled[:, 1:] -= scaled[:, :-1].copy()
    return scaled


def _shortest(words: npt.NDArray[np.uint32], position: int, state: tuple[int, int]) -> bytes:
    """Return the fewest bytes that, followed by zeros, lie in the last interval of the encoder.

    constriction itself ends on whole words. `state` is (lower, range): 64 bits that start at word `position`.
    The number of the words lies in the interval, so its distance from `lower` (mod 2^64) gives the start of
    the interval with all carries applied.
    """
    lower, width = state
    total = 32 * (position + 2)  # number of bits up to the end of `lower`
    number = int.from_bytes(words.astype(">u4").tobytes(), "big") << total - 32 * len(words)
    start = number - ((number - lower) & 0xFFFF_FFFF_FFFF_FFFF)
    for length in range(4 * max(0, position - 1), total // 8 + 1):
        drop = total - 8 * length
        candidate = -(-start >> drop)
        if candidate << drop < start + width:
            return candidate.to_bytes(length, "big").rstrip(b"\0")
    raise AssertionError(f"no number in the range coder's interval of {width} within {total} bits")

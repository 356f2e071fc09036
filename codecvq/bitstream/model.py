"""The adaptive model of the entropy coder: codes split into digits, and the frequency of each digit.

Encoder and decoder run the same model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from codecvq.bitstream.range_coder import scale_counts

MAX_ALPHABET = 4096  # largest radix of a modeled digit; `planes` splits larger codebooks
TRANSITION_ALPHABET = 64  # largest radix with transition counts: R x R counters
SEEN_WEIGHT = 4  # weight per occurrence of a digit
TRANSITION_WEIGHT = 32  # weight per occurrence after the previous digit
REPEAT_WEIGHT = 32  # weight of repeating the previous digit
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31)
MAX_SLICE_CELLS = 1 << 17  # maximum size of the weights [P, R] of a slice: they should fit into the CPU cache
# Padding up to these sizes is always accepted: an additional slice would cost as much.
PADDING_CELLS, PADDING_PAIRS = 1 << 12, 1 << 13


class Plane(NamedTuple):
    """One digit of the codes of a codebook: `code // place % radix`.

    A raw digit is packed without a model; the others are entropy-coded.
    """

    codebook: int
    place: int
    radix: int
    raw: bool = False


def planes(sizes: Sequence[int], split_above: int) -> list[Plane]:
    """Return the digits of the codes: one per codebook of up to `split_above` entries, several if larger.

    A codebook of one entry has no digit. A larger size is split into its prime factors up to 31, smallest
    first. FSQ, LFQ and BSQ number their codes digit by digit with the first level least significant, so 5^12
    or 8*8*8*5*5*5 splits at the levels (an 8 into three bits) and the model adapts quickly to every digit. A
    remaining factor above 4,096 is split again, and its low bits are raw.
    """
    all_planes = []
    for codebook, size in enumerate(sizes):
        place, rest = 1, size
        for prime in PRIMES if size > split_above else ():
            while rest % prime == 0:
                all_planes.append(Plane(codebook, place, prime))
                place, rest = place * prime, rest // prime
        if rest > MAX_ALPHABET:
            low = 1 << (rest - 1).bit_length() - MAX_ALPHABET.bit_length() + 1
            all_planes.append(Plane(codebook, place, low, raw=True))
            place, rest = place * low, -(-rest // low)
        if rest > 1:
            all_planes.append(Plane(codebook, place, rest))
    return all_planes


class FrameModel:
    """Integer frequencies of the digits of the next frame, estimated from the previous frames.

    The weight of a digit is the sum of: 4 per occurrence in its plane; 32 per occurrence directly after the
    digit of the previous frame (alphabets up to 64); 32 if it repeats the previous digit, because speech
    often stays at one value; and a small initial value, so that no digit has weight 0.

    `alphabet` is the number of columns of the frequencies: the largest radix of all planes of the file. If it
    exceeds the radices given here, one extra column R represents the unused rest. The frequencies of the
    digits then equal those of a model with `alphabet` columns.
    """

    def __init__(self, radices: Sequence[int], alphabet: int | None = None) -> None:
        self.radices = np.array(radices, dtype=np.int64)
        self.columns = max(2, max(radices))
        self.alphabet = max(self.columns, alphabet or 0)
        self.rows = np.arange(len(radices))
        # Small alphabets start nearly uniform; large alphabets adapt from the first frame on.
        start = np.clip(1024 // self.radices, 1, 16)
        self.counts = np.where(np.arange(self.columns) < self.radices[:, None], start[:, None], 0)  # [P, R]
        self.small = np.flatnonzero(self.radices <= TRANSITION_ALPHABET)
        width = int(self.radices[self.small].max(initial=0))
        self.transitions = np.zeros((len(self.small), width, width), dtype=np.int64)
        self.previous = np.zeros(len(radices), dtype=np.int64)  # the previous digit of each plane
        self.num_started = 0  # number of planes that have a previous digit; always the first ones

    def weights(self, count: int | None = None) -> npt.NDArray[np.float64]:
        """Return the weights `[P, R]` of the digits of the first `count` planes, by default of all planes.

        With an unused rest the shape is `[P, R + 1]`. The weights are integers; each row sums to 2^24 minus
        `alphabet`, see `codecvq.bitstream.range_coder`.
        """
        count = len(self.radices) if count is None else count
        weights = self.counts[:count].copy()
        if num_started := min(count, self.num_started):
            small, rows = self._small_planes(num_started)
            if len(small):
                transitions = self.transitions[rows, self.previous[small]]
                weights[small, : transitions.shape[1]] += TRANSITION_WEIGHT * transitions
            weights[self.rows[:num_started], self.previous[:num_started]] += REPEAT_WEIGHT
        scaled = scale_counts(weights, self.alphabet)
        if self.alphabet == self.columns:
            return scaled.astype(np.float64)
        rest = np.full(
            (len(scaled), 1), self.alphabet - self.columns - 1
        )  # the range coder adds 1 to every frequency
        return np.concatenate([scaled, rest], axis=1, dtype=np.float64)

    def update(self, digits: npt.NDArray[np.int64]) -> None:
        """Count the digits `[P]` of the first planes, which were coded with the last weights."""
        count = len(digits)
        self.counts[self.rows[:count], digits] += SEEN_WEIGHT
        if num_started := min(count, self.num_started):
            small, rows = self._small_planes(num_started)
            if len(small):
                self.transitions[rows, self.previous[small], digits[small]] += 1
        self.previous[:count] = digits
        self.num_started = max(self.num_started, count)

    def _small_planes(self, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the small-alphabet planes among the first `count`, and their rows in `transitions`."""
        small = self.small if count == len(self.radices) else self.small[self.small < count]
        return small, self.rows[: len(small)]


class _SliceSize(NamedTuple):
    """Size of a slice of planes, with and without padding."""

    planes: int = 0
    columns: int = 0  # the largest radix
    cells: int = 0  # sum of the radices
    small_planes: int = 0  # planes with transition counts
    width: int = 0  # the largest radix of the small planes
    pairs: int = 0  # sum of the squared radices of the small planes

    def with_plane(self, radix: int) -> _SliceSize:
        small = radix if radix <= TRANSITION_ALPHABET else 0
        return _SliceSize(
            self.planes + 1, max(self.columns, radix), self.cells + radix,
            self.small_planes + bool(small), max(self.width, small), self.pairs + small**2,
        )  # fmt: skip

    @property
    def is_wasteful(self) -> bool:
        cells, pairs = self.planes * self.columns, self.small_planes * self.width**2
        return (
            cells > MAX_SLICE_CELLS
            or cells > 2 * self.cells + PADDING_CELLS
            or pairs > 2 * self.pairs + PADDING_PAIRS
        )


def plane_slices(radices: Sequence[int]) -> Iterator[slice]:
    """Yield slices of consecutive planes, one per `FrameModel`.

    A model pads its planes to the largest radix, in the weights and in the transition counts. A slice ends
    before padding would more than double its size. So memory and time are proportional to the sum over the
    planes.
    """
    first, slice_size = 0, _SliceSize()
    for at, radix in enumerate(radices):
        slice_size = slice_size.with_plane(radix)
        if at > first and slice_size.is_wasteful:
            yield slice(first, at)
            first, slice_size = at, _SliceSize().with_plane(radix)
    if radices:
        yield slice(first, len(radices))

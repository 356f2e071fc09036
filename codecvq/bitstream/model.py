"""What both sides of the entropy coder know: the digits that codes are taken apart into, and how frequent
each digit is after the frames so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from codecvq.bitstream.range_coder import scale_counts

MAX_ALPHABET = 4096  # a digit of the model; larger codebooks are taken apart, see `planes`
TRANSITION_ALPHABET = 64  # up to here the model counts what follows what: R x R counters
SEEN_WEIGHT = 4  # weight of: seen before
TRANSITION_WEIGHT = 32  # seen after the digit before
REPEAT_WEIGHT = 32  # being the digit before
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31)
MAX_SLICE_CELLS = 1 << 17  # of its [P, R] weights, so that they stay in the cache
PADDING_CELLS, PADDING_PAIRS = 1 << 12, 1 << 13  # that padding may add in any case: a part more costs as much


class Plane(NamedTuple):
    """One digit of a codebook's codes: `code // place % radix`. A raw one is written as it is, the others are
    modelled.
    """

    codebook: int
    place: int
    radix: int
    raw: bool = False


def planes(sizes: Sequence[int], split_above: int) -> list[Plane]:
    """The digits in which codes are modelled: one a codebook of up to `split_above` entries, several above
    that, none for K = 1.

    A larger size is taken apart into its prime factors up to 31, smallest first: FSQ, LFQ and BSQ number
    their codes digit by digit with the first level least significant, so 5^12 or 8*8*8*5*5*5 comes apart at
    the levels (an 8 as three bits) and every digit is learnt quickly. What is left and above 4,096 loses its
    low bits, which are written as they are.
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
    """Frequencies of the next frame's digits, learnt from the frames so far; the same on both sides, all in
    integers.

    A digit weighs 4 for each time it was seen in its plane, 32 for each time it was seen right after the
    digit of the frame before (alphabets up to 64), 32 once for being that digit again (speech dwells), and a
    little from the start, so that everything can happen.

    `alphabet` is the size that each plane's frequencies are made for: the largest radix of all planes of the
    file. Where that is more than the radices given here, one column R stands for the rest, which nothing
    uses: the frequencies of the digits are those of a model with `alphabet` columns.
    """

    def __init__(self, radices: Sequence[int], alphabet: int | None = None) -> None:
        self.radices = np.array(radices, dtype=np.int64)
        self.columns = max(2, max(radices))
        self.alphabet = max(self.columns, alphabet or 0)
        self.rows = np.arange(len(radices))
        start = np.clip(
            1024 // self.radices, 1, 16
        )  # small alphabets: nearly even at first; large ones learn at once
        self.counts = np.where(np.arange(self.columns) < self.radices[:, None], start[:, None], 0)  # [P, R]
        self.small = np.flatnonzero(self.radices <= TRANSITION_ALPHABET)
        width = int(self.radices[self.small].max(initial=0))
        self.transitions = np.zeros((len(self.small), width, width), dtype=np.int64)
        self.previous = np.zeros(len(radices), dtype=np.int64)  # the last digit of each plane
        self.num_started = 0  # how many planes have had a digit: the first ones

    def weights(self, count: int | None = None) -> npt.NDArray[np.float64]:
        """Weights of the digits `[P, R]` of the first `count` planes, by default of all, or `[P, R + 1]` with
        the rest, whole numbers; every row's sum is 2^24 less its columns, see
        `codecvq.bitstream.range_coder`.
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
        rest = np.full((len(scaled), 1), self.alphabet - self.columns - 1)  # + 1 as every frequency
        return np.concatenate([scaled, rest], axis=1, dtype=np.float64)

    def update(self, digits: npt.NDArray[np.int64]) -> None:
        """Counts the digits `[P]` of the first planes, which were coded with the last weights."""
        count = len(digits)
        self.counts[self.rows[:count], digits] += SEEN_WEIGHT
        if num_started := min(count, self.num_started):
            small, rows = self._small_planes(num_started)
            if len(small):
                self.transitions[rows, self.previous[small], digits[small]] += 1
        self.previous[:count] = digits
        self.num_started = max(self.num_started, count)

    def _small_planes(self, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Those of the first `count` planes that have a small alphabet, and their rows in `transitions`."""
        small = self.small if count == len(self.radices) else self.small[self.small < count]
        return small, self.rows[: len(small)]


class _SliceSize(NamedTuple):
    """Planes in one model, and what it pads them to."""

    planes: int = 0
    columns: int = 0  # the largest radix
    cells: int = 0  # sum of the radices
    followed: int = 0  # planes with a small alphabet
    width: int = 0  # the largest radix of these
    pairs: int = 0  # sum of the squares of these

    def with_plane(self, radix: int) -> _SliceSize:
        small = radix if radix <= TRANSITION_ALPHABET else 0
        return _SliceSize(
            self.planes + 1, max(self.columns, radix), self.cells + radix,
            self.followed + bool(small), max(self.width, small), self.pairs + small**2,
        )  # fmt: skip

    @property
    def is_wasteful(self) -> bool:
        cells, pairs = self.planes * self.columns, self.followed * self.width**2
        return (
            cells > MAX_SLICE_CELLS
            or cells > 2 * self.cells + PADDING_CELLS
            or pairs > 2 * self.pairs + PADDING_PAIRS
        )


def plane_slices(radices: Sequence[int]) -> Iterator[slice]:
    """Runs of planes that one `FrameModel` holds.

    A model pads its planes to the largest radix, in its weights and in its counts of what follows. Runs end
    where that would add more than the planes themselves have, so that memory and time go with the sum over
    the planes.
    """
    first, slice_size = 0, _SliceSize()
    for at, radix in enumerate(radices):
        slice_size = slice_size.with_plane(radix)
        if at > first and slice_size.is_wasteful:
            yield slice(first, at)
            first, slice_size = at, _SliceSize().with_plane(radix)
    if radices:
        yield slice(first, len(radices))

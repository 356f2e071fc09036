"""Codes as bytes and back, in the ways that a `.cvq` file knows. Integers decide every bit: any machine
decodes any file.

`packed` counts in the codebook's own base. For each size K, m codes are one number below K^m, written with
ceil(log2 K^m) bits; m is the best one below 64 bits (27 codes of K = 5 take 63 bits: 2.333 a code, where log2
5 is 2.322 and whole bits would be 3).

`entropy` is constriction's range coder under a model that both sides learn while they go through the frames,
see `FrameModel`. Counts were chosen over frequency tables in the file by measurement: codes of real speech
(96 held-out telephone prompts in five languages) from two stand-in codecs, 12 scalar codebooks of 5 at 50 Hz
and 8 k-means codebooks of 1024 at 75 Hz; bits against the nominal N T log2 K, for clips of 1.2 s / 2.8 s /
5.8 s on average:

    | model                                        | 12 x 5            | 8 x 1024           |
    | tables in the file, Elias-gamma coded        | 1.13 / 1.09 / .87 | 1.87 / 1.36 / 1.01 |
    | tables in the file, the shortest conceivable | .95 / .98 / .82   | .97 / .98 / .87    |
    | counts                                       | .95 / .97 / .83   | .96 / .98 / .84    |
    | and what followed the frame before (this)    | .79 / .81 / .66   | .94 / .96 / .83    |
    | the same on the same frames, shuffled        | .98 / 1.00 / .83  | .96 / .98 / .84    |

Quantizers whose codes are made of levels have a variant that takes them apart, `digits`: as 3 codebooks of
5^4, the codes of the left column take .92 / .96 / .82 whole and .79 / .81 / .66 in digits; the 1024 of the
right one, taken for ten bits, 1.01 / 1.01 / .90. A writer tries both.

A table cannot win: sent in the shortest conceivable way (the index of the histogram among all of its size) it
costs exactly what counts that begin at 1 cost, and it cannot follow from one frame to the next. How much
following gives depends on the codec; where there is nothing to follow it costs next to nothing.

No rounding decides. constriction takes floats, scales them by (2^24 - R) / their sum, R being the alphabet,
and adds 1 to each so that none is 0. The weights given to it are whole numbers whose sum *is* 2^24 - R: the
factor is 1.0, every step exact, and the frequency of digit i is its weight + 1 on any processor. A test
decodes with a plain integer range decoder to hold it to that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codecvq.errors import BitstreamError

Codes = npt.NDArray[np.int64]

LARGEST_ALPHABET = 4096  # a digit of the model; larger codebooks are taken apart, see `planes`
FOLLOWED_ALPHABET = 64  # up to here the model counts what follows what: R x R counters
PRECISION = 24  # bits of a frequency, fixed in constriction's range coder
COUNT, FOLLOWS, REPEATS = (
    4,
    32,
    32,
)  # weights of: seen before, seen after the digit before, being the digit before
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31)


# ---- packed --------------------------------------------------------------------------------------


def packed_bits(sizes: Sequence[int], frames: int) -> int:
    """Bits that `pack_codes` writes for codebooks of these sizes, before they are filled up to whole
    bytes.
    """
    return sum(_stream_bits(size, sizes.count(size) * frames) for size in dict.fromkeys(sizes))


def pack_codes(codes: Codes, sizes: Sequence[int]) -> bytes:
    """Bytes of codes `[N, T]` in mixed radix, `ceil(packed_bits / 8)` of them.

    Codebooks of one size are one stream, frame by frame; the streams follow each other in the order of the
    first such codebook.
    """
    bits = []
    for size in dict.fromkeys(sizes):
        rows = [n for n, other in enumerate(sizes) if other == size]
        bits.append(_stream_to_bits(codes[rows].T.reshape(-1), size))
    return np.packbits(np.concatenate(bits)).tobytes() if bits else b""


def unpack_codes(data: bytes, sizes: Sequence[int], frames: int) -> Codes:
    """Codes `[N, T]` from what `pack_codes` wrote; raises BitstreamError where a number is too large for its
    codebook.
    """
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    codes = np.empty((len(sizes), frames), dtype=np.int64)
    at = 0
    for size in dict.fromkeys(sizes):
        rows = [n for n, other in enumerate(sizes) if other == size]
        length = _stream_bits(size, len(rows) * frames)
        stream = _bits_to_stream(bits[at : at + length], size, len(rows) * frames)
        codes[rows] = stream.reshape(frames, len(rows)).T
        at += length
    return codes


def _bits_of(size: int, count: int) -> int:
    """Bits of the largest number that `count` codes of one size make: ceil(log2 size^count), exact at any
    size.
    """
    return int(size**count - 1).bit_length()


def _group(size: int) -> int:
    """How many codes of one size share a number of at most 64 bits: the fewest bits a code; of equals the
    most codes.
    """
    fitting = (count for count in range(1, 65) if _bits_of(size, count) <= 64)
    return min(fitting, key=lambda count: (_bits_of(size, count) / count, -count))


def _stream_bits(size: int, count: int) -> int:
    group = _group(size)
    return count // group * _bits_of(size, group) + _bits_of(size, count % group)


def _stream_to_bits(stream: Codes, size: int) -> npt.NDArray[np.uint8]:
    group = _group(size)
    whole = stream.size // group * group
    bits = [_digits_to_bits(stream[:whole].reshape(-1, group), size)]
    if whole < stream.size:
        bits.append(_digits_to_bits(stream[whole:].reshape(1, -1), size))
    return np.concatenate(bits)


def _bits_to_stream(bits: npt.NDArray[np.uint8], size: int, count: int) -> Codes:
    group = _group(size)
    whole = count // group
    split = whole * _bits_of(size, group)
    parts = [_bits_to_digits(bits[:split], size, whole, group)]
    if count % group:
        parts.append(_bits_to_digits(bits[split:], size, 1, count % group))
    return np.concatenate([part.reshape(-1) for part in parts])


def _digits_to_bits(digits: Codes, size: int) -> npt.NDArray[np.uint8]:
    """Numbers `[G, m]` in base `size`, least significant first, as bits, most significant first."""
    numbers = np.zeros(len(digits), dtype=np.uint64)
    for column in reversed(range(digits.shape[1])):
        numbers = numbers * np.uint64(size) + digits[:, column].astype(np.uint64)
    eight_bytes = numbers.astype(">u8").view(np.uint8).reshape(-1, 8)
    return np.unpackbits(eight_bytes, axis=1)[:, 64 - _bits_of(size, digits.shape[1]) :].reshape(-1)


def _bits_to_digits(bits: npt.NDArray[np.uint8], size: int, rows: int, columns: int) -> Codes:
    padded = np.zeros((rows, 64), dtype=np.uint8)
    padded[:, 64 - _bits_of(size, columns) :] = bits.reshape(rows, -1) if rows else 0
    numbers = np.packbits(padded, axis=1).view(">u8").reshape(-1).astype(np.uint64)
    digits = np.empty((rows, columns), dtype=np.int64)
    for column in range(columns):
        digits[:, column] = (numbers % np.uint64(size)).astype(np.int64)
        numbers = numbers // np.uint64(size)
    if numbers.any():
        raise BitstreamError(
            f"the packed codes hold a number too large for {columns} codes of a codebook of {size}."
        )
    return digits


# ---- entropy -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plane:
    """One digit of a codebook's codes: `code // place % radix`. A raw one is written as it is, the others are
    modelled.
    """

    codebook: int
    place: int
    radix: int
    raw: bool = False


def planes(sizes: Sequence[int], whole: int) -> list[Plane]:
    """The digits in which codes are modelled: one a codebook of up to `whole` entries, several above that,
    none for K = 1.

    A larger size is taken apart into its prime factors up to 31, smallest first: FSQ, LFQ and BSQ number
    their codes digit by digit with the first level least significant, so 5^12 or 8*8*8*5*5*5 comes apart at
    the levels (an 8 as three bits) and every digit is learnt quickly. What is left and above 4,096 loses its
    low bits, which are written as they are.
    """
    found = []
    for codebook, size in enumerate(sizes):
        place, rest = 1, size
        for prime in PRIMES if size > whole else ():
            while rest % prime == 0:
                found.append(Plane(codebook, place, prime))
                place, rest = place * prime, rest // prime
        if rest > LARGEST_ALPHABET:
            low = 1 << (rest - 1).bit_length() - LARGEST_ALPHABET.bit_length() + 1
            found.append(Plane(codebook, place, low, raw=True))
            place, rest = place * low, -(-rest // low)
        if rest > 1:
            found.append(Plane(codebook, place, rest))
    return found


class FrameModel:
    """Frequencies of the next frame's digits, learnt from the frames so far; the same on both sides, all in
    integers.

    A digit weighs 4 for each time it was seen in its plane, 32 for each time it was seen right after the
    digit of the frame before (alphabets up to 64), 32 once for being that digit again (speech dwells), and a
    little from the start, so that everything can happen.
    """

    def __init__(self, radices: Sequence[int]) -> None:
        self.radices = np.array(radices, dtype=np.int64)
        self.columns = max(2, max(radices))
        self.rows = np.arange(len(radices))
        start = np.clip(
            1024 // self.radices, 1, 16
        )  # small alphabets: nearly even at first; large ones learn at once
        self.counts = np.where(np.arange(self.columns) < self.radices[:, None], start[:, None], 0)  # [P, R]
        self.small = np.flatnonzero(self.radices <= FOLLOWED_ALPHABET)
        width = int(self.radices[self.small].max(initial=0))
        self.follows = np.zeros((len(self.small), width, width), dtype=np.int64)
        self.before: npt.NDArray[np.int64] | None = None

    def weights(self) -> npt.NDArray[np.float64]:
        """Weights `[P, R]` of the digits, whole numbers; every row's sum is 2^24 - R, see the module's
        docstring.
        """
        weights = self.counts.copy()
        if self.before is not None:
            if len(self.small):
                follows = self.follows[np.arange(len(self.small)), self.before[self.small]]
                weights[self.small, : follows.shape[1]] += FOLLOWS * follows
            weights[self.rows, self.before] += REPEATS
        shares = np.cumsum(weights, axis=1)
        shares = shares * ((1 << PRECISION) - self.columns) // shares[:, -1:]
        shares[:, 1:] -= shares[:, :-1].copy()
        return shares.astype(np.float64)

    def learn(self, digits: npt.NDArray[np.int64]) -> None:
        """Counts the digits `[P]` of the frame that was coded with the last weights."""
        self.counts[self.rows, digits] += COUNT
        if self.before is not None and len(self.small):
            self.follows[np.arange(len(self.small)), self.before[self.small], digits[self.small]] += 1
        self.before = digits


def entropy_encode(codes: Codes, sizes: Sequence[int], whole: int = LARGEST_ALPHABET) -> bytes:
    """Bytes of codes `[N, T]`: raw digits packed, then the range coder's bytes, which end where zeros can
    stand for the rest.
    """
    from constriction import stream

    raw, modelled = _by_kind(planes(sizes, whole))
    low = pack_codes(_digits(codes, raw), [plane.radix for plane in raw])
    if not modelled or codes.shape[1] == 0:
        return low
    frames = FrameModel([plane.radix for plane in modelled])
    family, encoder = stream.model.Categorical(perfect=False), stream.queue.RangeEncoder()
    for digits in _digits(codes, modelled).T:
        encoder.encode(digits.astype(np.int32), family, frames.weights())
        frames.learn(digits)
    return low + _shortest(encoder.get_compressed(), *encoder.pos())


def entropy_decode(data: bytes, sizes: Sequence[int], frames: int, whole: int = LARGEST_ALPHABET) -> Codes:
    """Codes `[N, T]` from what `entropy_encode` wrote; raises BitstreamError where the bytes are none of its
    making.
    """
    raw, modelled = _by_kind(planes(sizes, whole))
    low_bytes = -(-packed_bits([plane.radix for plane in raw], frames) // 8)
    if len(data) < low_bytes:
        raise BitstreamError(
            f"the payload has {len(data)} bytes, but the low digits of its codes alone take {low_bytes}."
        )
    codes = np.zeros((len(sizes), frames), dtype=np.int64)
    for plane, digits in zip(
        raw, unpack_codes(data[:low_bytes], [plane.radix for plane in raw], frames), strict=True
    ):
        codes[plane.codebook] += digits * plane.place
    if modelled and frames:
        radices = [plane.radix for plane in modelled]
        for frame, digits in enumerate(_decoded_frames(data[low_bytes:], radices, frames)):
            for plane, digit in zip(modelled, digits.tolist(), strict=True):
                codes[plane.codebook, frame] += digit * plane.place
    if (codes >= np.array(sizes, dtype=np.int64)[:, None]).any():
        raise BitstreamError("the entropy-coded payload holds a code beyond its codebook.")
    return codes


def _decoded_frames(data: bytes, radices: list[int], frames: int) -> Iterator[npt.NDArray[np.int64]]:
    """The modelled digits `[P]` of each frame."""
    from constriction import stream

    words = np.frombuffer(data + bytes(8 + -len(data) % 4), dtype=">u4").astype(np.uint32)
    family, decoder = stream.model.Categorical(perfect=False), stream.queue.RangeDecoder(words)
    learnt = FrameModel(radices)
    for _ in range(frames):
        try:
            digits = decoder.decode(family, learnt.weights()).astype(np.int64)
        except (
            AssertionError,
            ValueError,
        ) as error:  # how constriction tells bytes that no encoder can have written
            raise BitstreamError(f"the entropy-coded payload cannot be decoded ({error}).") from error
        if (digits >= learnt.radices).any():
            raise BitstreamError("the entropy-coded payload holds a digit beyond its alphabet.")
        learnt.learn(digits)
        yield digits


def _by_kind(found: list[Plane]) -> tuple[list[Plane], list[Plane]]:
    """Raw planes, modelled planes."""
    return [plane for plane in found if plane.raw], [plane for plane in found if not plane.raw]


def _digits(codes: Codes, of: list[Plane]) -> Codes:
    """Digits `[P, T]` of codes `[N, T]`."""
    digits = np.empty((len(of), codes.shape[1]), dtype=np.int64)
    for row, plane in enumerate(of):
        digits[row] = codes[plane.codebook] // plane.place % plane.radix
    return digits


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

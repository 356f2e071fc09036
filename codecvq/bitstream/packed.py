"""Packing of codes in mixed radix: each code takes log2 K bits, plus at most 1.1 %.

For each size K, m codes form one number below K^m, written with ceil(log2 K^m) bits. m is the number of codes
with the fewest bits per code, up to 64 bits. Example: 27 codes of K = 5 take 63 bits. That is 2.333 bits per
code, compared with log2 5 = 2.322, and with 3 for whole bits per code.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile

import numpy as np
import numpy.typing as npt

from codecvq.errors import BitstreamError
from codecvq.limits import MAX_CODEBOOKS

Codes = npt.NDArray[np.int64]
Stored = npt.NDArray[np.bool_]

BLOCK_ROWS = 1 << 14  # numbers per unpacked block


def packed_bits(sizes: Sequence[int], counts: Sequence[int]) -> int:
    """Return the bits of `pack_codes` before padding to whole bytes.

    `counts` is the number of codes of each codebook.
    """
    return sum(_stream_bits(size, _count(sizes, counts, size)) for size in dict.fromkeys(sizes))


def pack_codes(codes: Codes, sizes: Sequence[int], stored: Stored | None = None) -> bytes:
    """Pack codes `[N, T]` into `ceil(packed_bits / 8)` bytes: all codes, or those that are True in `stored`.

    Codebooks of equal size form one stream, frame by frame. Streams are in the order of their first codebook.
    Shape of `stored`: `[N, T]`.
    """
    bits = []
    for size in dict.fromkeys(sizes):
        rows = _rows(sizes, size)
        stream = codes[rows].T.reshape(-1)
        bits.append(_stream_to_bits(stream if stored is None else stream[stored[rows].T.reshape(-1)], size))
    return np.packbits(np.concatenate(bits)).tobytes() if bits else b""


def unpack_codes(data: bytes, sizes: Sequence[int], frames: int, stored: Stored | None = None) -> Codes:
    """Unpack the output of `pack_codes` to codes `[N, T]`; codes that are not stored are 0.

    Raises BitstreamError if a number is too large for its codebook.
    """
    octets = np.frombuffer(data, dtype=np.uint8)
    codes = np.zeros((len(sizes), frames), dtype=np.int64)
    at = 0
    for size in dict.fromkeys(sizes):
        rows = _rows(sizes, size)
        stored_rows = None if stored is None else stored[rows].T
        count = len(rows) * frames if stored_rows is None else int(stored_rows.sum())
        stream = _bits_to_stream(octets, at, size, count)
        if stored_rows is None:
            codes[rows] = stream.reshape(frames, len(rows)).T
        else:
            frame_codes = np.zeros((frames, len(rows)), dtype=np.int64)
            frame_codes[stored_rows] = stream
            codes[rows] = frame_codes.T
        at += _stream_bits(size, count)
    return codes


def _rows(sizes: Sequence[int], size: int) -> list[int]:
    return [n for n, other in enumerate(sizes) if other == size]


def _count(sizes: Sequence[int], counts: Sequence[int], size: int) -> int:
    return sum(counts[n] for n in _rows(sizes, size))


def _number_bits(size: int, count: int) -> int:
    """Return the bits of the largest number of `count` codes of one size.

    That is ceil(log2 size^count), computed with exact integers.
    """
    return int(size**count - 1).bit_length()


@lru_cache(maxsize=MAX_CODEBOOKS)
def _codes_per_number(size: int) -> int:
    """Return how many codes of one size form one number of at most 64 bits.

    Minimizes the bits per code; the largest number of codes wins a tie.
    """
    fitting = takewhile(lambda count: _number_bits(size, count) <= 64, range(1, 65))
    return min(fitting, key=lambda count: (_number_bits(size, count) / count, -count))


def _stream_bits(size: int, count: int) -> int:
    group = _codes_per_number(size)
    return count // group * _number_bits(size, group) + _number_bits(size, count % group)


def _stream_to_bits(stream: Codes, size: int) -> npt.NDArray[np.uint8]:
    group = _codes_per_number(size)
    whole = stream.size // group * group
    bits = [_digits_to_bits(stream[:whole].reshape(-1, group), size)]
    if whole < stream.size:
        bits.append(_digits_to_bits(stream[whole:].reshape(1, -1), size))
    return np.concatenate(bits)


def _bits_to_stream(octets: npt.NDArray[np.uint8], at: int, size: int, count: int) -> Codes:
    """Return `count` codes from the bits that start at bit `at`.

    Works in blocks, because unpacked bits take eight times the memory.
    """
    group = _codes_per_number(size)
    bits = _number_bits(size, group)
    stream = np.empty(count, dtype=np.int64)
    whole = stream[: count // group * group].reshape(-1, group)  # a view
    for first in range(0, len(whole), BLOCK_ROWS):
        block = whole[first : first + BLOCK_ROWS]
        block[:] = _bits_to_digits(_bits(octets, at + first * bits, len(block) * bits), size, *block.shape)
    if rest := count % group:
        bits_left = _bits(octets, at + len(whole) * bits, _number_bits(size, rest))
        stream[whole.size :] = _bits_to_digits(bits_left, size, 1, rest)[0]
    return stream


def _bits(octets: npt.NDArray[np.uint8], at: int, length: int) -> npt.NDArray[np.uint8]:
    first, skip = divmod(at, 8)
    return np.unpackbits(octets[first : -(-(at + length) // 8)])[skip : skip + length]


def _digits_to_bits(digits: Codes, size: int) -> npt.NDArray[np.uint8]:
    """Convert digits `[G, m]` in base `size`, least significant first, to bits, most significant first."""
    numbers = np.zeros(len(digits), dtype=np.uint64)
    for column in reversed(range(digits.shape[1])):
        numbers = numbers * np.uint64(size) + digits[:, column].astype(np.uint64)
    eight_bytes = numbers.astype(">u8").view(np.uint8).reshape(-1, 8)
    return np.unpackbits(eight_bytes, axis=1)[:, 64 - _number_bits(size, digits.shape[1]) :].reshape(-1)


def _bits_to_digits(bits: npt.NDArray[np.uint8], size: int, rows: int, columns: int) -> Codes:
    padded = np.zeros((rows, 64), dtype=np.uint8)
    padded[:, 64 - _number_bits(size, columns) :] = bits.reshape(rows, -1) if rows else 0
    numbers = np.packbits(padded, axis=1).view(">u8").reshape(-1).astype(np.uint64)
    digits = np.empty((rows, columns), dtype=np.int64)
    for column in range(columns):
        digits[:, column] = (numbers % np.uint64(size)).astype(np.int64)
        numbers = numbers // np.uint64(size)
    if numbers.any():
        raise BitstreamError(
            f"the packed codes have a number too large for {columns} codes of a codebook of {size}."
        )
    return digits

"""A reader of `.cvq` version 3 in plain Python, written from `docs/reference/cvq-format.md` alone.

It imports nothing of codecvq, and is slow: the tests compare the library with it.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31)
TOTAL = 1 << 24  # sum of the frequencies of the range coder


class Damaged(Exception):
    """The file is not valid."""


class Digit(NamedTuple):
    """A digit of a code: code // place % radix."""

    codebook: int
    place: int
    radix: int
    raw: bool = False


@dataclass
class Tables:
    """The learned tables of a codec."""

    symbols: list[Digit]
    contexts: list[list[tuple[int, int]]]  # of each symbol: (other symbol, lag)
    rows: list[list[list[int]]]  # of each symbol: frequencies [context][value]
    step: int

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Tables:
        """Tables of a vector: whole codes or digits `levels`, with contexts by name."""
        symbols: list[Digit] = []
        contexts: list[list[tuple[int, int]]] = []
        for codebook, size in enumerate(stored["codebook_sizes"]):
            radices, place = stored["levels"] or [size], 1
            for digit, radix in enumerate(radices):
                at = len(symbols)
                known = {"previous": (at, 1)}
                known |= {"below": (at - len(radices), 0)} if codebook else {}
                known |= {"digit": (at - 1, 0)} if digit else {}
                contexts.append([known[name] for name in known if name in stored["contexts"]])
                symbols.append(Digit(codebook, place, radix))
                place *= radix
        numbers, rows = iter(stored["frequencies"]), []
        for symbol, of_symbol in zip(symbols, contexts, strict=True):
            count = math.prod(symbols[other].radix + 1 for other, _ in of_symbol)
            rows.append([[next(numbers) for _ in range(symbol.radix)] for _ in range(count)])
        return cls(symbols, contexts, rows, stored["step"])


class Bytes:
    """Bytes that are read in order."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise Damaged("truncated")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def runs(self) -> list[int]:
        values: list[int] = []
        for _ in range(self.number()):
            count, value = self.number(), self.number()
            values += [value] * count
        return values


@dataclass
class File:
    """What a file contains; codes `[C][N][T]` and silent frames `[C][T]`."""

    sizes: list[int]
    strides: list[int]
    header: dict[str, Any]
    codes: list[list[list[int]]]
    silent: list[list[bool]]
    kinds: list[str] = field(default_factory=list)
    frames: int = 0
    num_samples: int = 0


def read(data: bytes, tables: Tables | None = None) -> File:
    """Read a file."""
    source = Bytes(data)
    if source.take(4) != b"CVQ\x03":
        raise Damaged("magic")
    flags = source.take(1)[0]
    header: dict[str, Any] = {"codebooks_id": source.take(16).hex(), "weights_id": source.take(4).hex()}
    header["tables_id"] = source.take(4).hex() if flags & 16 else ""
    header["sample_rate"], header["hop_length"] = source.number(), source.number()
    chunk_frames, sizes = source.number(), source.runs()
    strides = source.runs() if flags & 1 else [1] * len(sizes)
    header["channels"], coded = (source.number(), source.number()) if flags & 2 else (1, 1)
    header["original_sample_rate"] = source.number() if flags & 4 else header["sample_rate"]
    header["known_length"] = source.number() if flags & 8 else None
    checksum = zlib.crc32(data[: source.at])
    if source.take(2) != checksum.to_bytes(4, "little")[:2]:
        raise Damaged("checksum of the header")
    file = File(
        sizes, strides, header, [[[] for _ in sizes] for _ in range(coded)], [[] for _ in range(coded)]
    )
    lengths: list[int] = []
    while data[source.at] != 0xE5:
        start = source.at
        read_chunk(source, file, chunk_frames, checksum, len(lengths), tables)
        lengths.append(source.at - start)
    start = source.at
    source.take(1)
    file.frames, file.num_samples = source.number(), source.number()
    index = [source.number() for _ in range(-(-file.frames // chunk_frames) - 1)]
    if source.take(4) != zlib.crc32(data[start : source.at - 4], checksum).to_bytes(4, "little"):
        raise Damaged("checksum of the end record")
    length = source.at - start
    if index != lengths[:-1] or file.frames != len(file.silent[0]) or Bytes(data[::-1]).number() != length:
        raise Damaged("index")
    return file


def read_chunk(
    source: Bytes, file: File, chunk_frames: int, checksum: int, number: int, tables: Tables | None
) -> None:
    """Read one chunk and append its codes."""
    start = source.at
    tag, length = source.take(1)[0], source.number()
    body = Bytes(source.take(length))
    if source.take(4) != zlib.crc32(source.data[start : source.at - 4], checksum).to_bytes(4, "little"):
        raise Damaged("checksum of a chunk")
    if tag >> 4 != 10 or body.number() != number:
        raise Damaged("order of the chunks")
    kind, flags = ["packed", "entropy", "digits", "learned"][tag & 7], body.take(1)[0] if tag & 8 else 0
    frames = body.number() if flags & 1 else chunk_frames
    channels = range(len(file.codes))
    silent = [read_silence(body, frames) if flags & 2 else [False] * frames for _ in channels]
    depth_bytes = [body.number() if flags & 4 else 0 for _ in channels]
    sizes = [body.number() for _ in channels[1:]]
    for channel in channels:
        payload = body.take(sizes[channel]) if channel < len(sizes) else body.data[body.at :]
        coded = silent[channel].count(False)
        codes = iter(decode(kind, file, payload, coded, depth_bytes[channel], tables))
        for is_silent in silent[channel]:
            frame = [0] * len(file.sizes) if is_silent else next(codes)
            for book, code in zip(file.codes[channel], frame, strict=True):
                book.append(code)
        file.silent[channel] += silent[channel]
    file.kinds.append(kind)


def read_silence(body: Bytes, frames: int) -> list[bool]:
    """Read the runs of one channel."""
    silent: list[bool] = []
    value = False
    for _ in range(body.number()):
        silent += [value] * body.number()
        value = not value
    return silent + [value] * (frames - len(silent))


def decode(
    kind: str, file: File, payload: bytes, frames: int, depth_field: int, tables: Tables | None
) -> list[list[int]]:
    """Decode a payload to the codes of its frames, `[T][N]`."""
    books = len(file.sizes)
    depths = [books] * frames
    if depth_field:
        data, payload = payload[: depth_field - 1], payload[depth_field - 1 :]
        one = [[True]] * frames
        if kind == "packed":
            depths = [codes[0] for codes in unpack(data, [books + 1], one)[0]]
        else:
            depths = [codes[0] for codes in adaptive(data, [books + 1], [1], one, 4096)]
    stored = [
        [frame % file.strides[book] == 0 and book < depths[frame] for book in range(books)]
        for frame in range(frames)
    ]
    if kind == "packed":
        codes = unpack(payload, file.sizes, stored)[0]
    elif kind == "learned":
        if tables is None:
            raise Damaged("no tables")
        codes = learned(payload, file, stored, tables)
    else:
        codes = adaptive(payload, file.sizes, file.strides, stored, {"entropy": 4096, "digits": 64}[kind])
    for frame in range(frames):
        for book, stride in enumerate(file.strides):
            if book >= depths[frame]:
                codes[frame][book] = -1
            elif frame % stride:
                codes[frame][book] = codes[frame - frame % stride][book]
    return codes


def unpack(data: bytes, sizes: list[int], stored: list[list[bool]]) -> tuple[list[list[int]], int]:
    """Unpack codes `[T][N]`; codes that are not stored are 0. Also returns the bytes used."""
    bits = int.from_bytes(data, "big")
    left = 8 * len(data)
    codes = [[0] * len(sizes) for _ in stored]
    for size in dict.fromkeys(sizes):
        places = [
            (frame, book)
            for frame in range(len(stored))
            for book in range(len(sizes))
            if sizes[book] == size and stored[frame][book]
        ]
        fitting = [count for count in range(1, 65) if (size**count - 1).bit_length() <= 64]
        group = min(fitting, key=lambda count: ((size**count - 1).bit_length() / count, -count))
        for first in range(0, len(places), group):
            members = places[first : first + group]
            left -= (size ** len(members) - 1).bit_length()
            number = (bits >> left) & ((1 << (size ** len(members) - 1).bit_length()) - 1)
            for frame, book in members:
                number, codes[frame][book] = divmod(number, size)
            if number:
                raise Damaged("a packed number")
    return codes, len(data) - left // 8


class RangeDecoder:
    """Decodes digits from frequencies that sum to 2^24."""

    def __init__(self, data: bytes) -> None:
        self.words = Bytes(data + bytes(8 + -len(data) % 4))
        self.low, self.range = 0, (1 << 64) - 1
        self.point = int.from_bytes(self.words.take(8), "big")

    def decode(self, weights: list[int], alphabet: int) -> int:
        """The next digit. Weights are scaled to frequencies for an alphabet of this size."""
        scale, total, before = self.range >> 24, sum(weights), 0
        quantile = (self.point - self.low) % (1 << 64) // scale
        cumulative = 0
        for digit, weight in enumerate(weights):
            cumulative += weight
            end = cumulative * (TOTAL - alphabet) // total + digit + 1
            if quantile < end:
                self.low = (self.low + scale * before) % (1 << 64)
                self.range = scale * (end - before)
                if self.range < 1 << 32:
                    word = self.words.take(4) if self.words.at < len(self.words.data) else bytes(4)
                    self.low = (self.low << 32) % (1 << 64)
                    self.range <<= 32
                    self.point = ((self.point << 32) | int.from_bytes(word, "big")) % (1 << 64)
                return digit
            before = end
        raise Damaged("a digit outside its alphabet")


def digits_of(sizes: list[int], split_above: int) -> list[Digit]:
    """The digits of the codes of all codebooks."""
    digits = []
    for book, size in enumerate(sizes):
        place, rest = 1, size
        for prime in PRIMES if size > split_above else ():
            while rest % prime == 0:
                digits.append(Digit(book, place, prime))
                place, rest = place * prime, rest // prime
        if rest > 4096:
            low = 1 << ((rest - 1).bit_length() - 12)
            digits.append(Digit(book, place, low, raw=True))
            place, rest = place * low, -(-rest // low)
        if rest > 1:
            digits.append(Digit(book, place, rest))
    return digits


@dataclass
class Adaptive:
    """The counts of one digit in the adaptive model."""

    radix: int
    counts: list[int]
    after: dict[tuple[int, int], int] = field(default_factory=dict)
    previous: int = -1

    def weights(self) -> list[int]:
        weights = list(self.counts)
        if self.previous >= 0:
            for value in range(self.radix) if self.radix <= 64 else ():
                weights[value] += 32 * self.after.get((self.previous, value), 0)
            weights[self.previous] += 32
        return weights

    def update(self, value: int) -> None:
        self.counts[value] += 4
        if self.previous >= 0:
            self.after[self.previous, value] = self.after.get((self.previous, value), 0) + 1
        self.previous = value


def adaptive(
    data: bytes, sizes: list[int], strides: list[int], stored: list[list[bool]], split_above: int
) -> list[list[int]]:
    """Decode the kinds `entropy` and `digits`, `[T][N]`."""
    digits = digits_of(sizes, split_above)
    raw = [digit for digit in digits if digit.raw]
    low, used = unpack(
        data, [digit.radix for digit in raw], [[frame[digit.codebook] for digit in raw] for frame in stored]
    )
    modeled = sorted((digit for digit in digits if not digit.raw), key=lambda digit: strides[digit.codebook])
    models = [
        Adaptive(digit.radix, [min(16, max(1, 1024 // digit.radix))] * digit.radix) for digit in modeled
    ]
    alphabet = max([2, *(digit.radix for digit in modeled)])
    coder = RangeDecoder(data[used:])
    codes = []
    for frame, is_stored in enumerate(stored):
        codes.append([0] * len(sizes))
        for digit, value in zip(raw, low[frame], strict=True):
            codes[-1][digit.codebook] += value * digit.place
        for digit, model in zip(modeled, models, strict=True):
            if is_stored[digit.codebook]:
                value = coder.decode(model.weights(), alphabet)
                model.update(value)
                codes[-1][digit.codebook] += value * digit.place
    return codes


def learned(data: bytes, file: File, stored: list[list[bool]], tables: Tables) -> list[list[int]]:
    """Decode the kind `learned`, `[T][N]`."""
    symbols = [symbol for symbol in tables.symbols if symbol.codebook < len(file.sizes)]
    ranks: list[int] = []
    for contexts in tables.contexts[: len(symbols)]:
        ranks.append(max((ranks[other] + 1 for other, lag in contexts if lag == 0), default=0))
    order = sorted(
        range(len(symbols)),
        key=lambda at: (ranks[at], file.strides[symbols[at].codebook], symbols[at].radix, at),
    )
    counts = [[list(row) for row in rows] for rows in tables.rows]
    current = [symbol.radix for symbol in symbols]  # the radix stands for an absent value
    coder = RangeDecoder(data)
    codes = []
    for frame, is_stored in enumerate(stored):
        codes.append([0] * len(file.sizes))
        previous = list(current)
        for at in order:
            symbol = symbols[at]
            if frame % file.strides[symbol.codebook]:
                continue
            current[at] = symbol.radix
            if not is_stored[symbol.codebook]:
                continue
            row = 0
            for other, lag in tables.contexts[at]:
                row = row * (symbols[other].radix + 1) + (previous if lag else current)[other]
            weights = counts[at][row]
            value = coder.decode(weights, symbol.radix) if symbol.radix > 1 else 0
            weights[value] += tables.step
            current[at] = value
            codes[-1][symbol.codebook] += value * symbol.place
    return codes

"""`Source`: exact reads from a binary stream, with a position and a way back, and the format's numbers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import groupby
from typing import BinaryIO

from codecvq.errors import BitstreamError
from codecvq.limits import MAX_CODEBOOKS

BLOCK_BYTES = 1 << 20  # read at once: a claimed length allocates no memory before the bytes arrive
MAX_NUMBER = 2**63 - 1  # largest value of a varint


class Source:
    """Bytes of a binary stream, from its current position.

    Reads no byte before it is needed, so that a pipe does not block early. Keeps the bytes since the last
    `release`, so that `rewind` works on pipes too.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._kept = bytearray()
        self._first = 0  # position of the first byte kept
        self._at = 0  # index of the next byte in `_kept`
        self.is_seekable = _is_seekable(stream)
        self._base = stream.tell() if self.is_seekable else 0

    @classmethod
    def of(cls, data: bytes) -> Source:
        """Return a source of bytes in memory."""
        return cls(io.BytesIO(data))

    @property
    def position(self) -> int:
        """Number of bytes from the start of the source to the next byte."""
        return self._first + self._at

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes, or fewer at the end."""
        while (missing := self._at + count - len(self._kept)) > 0:
            block = self._stream.read(min(missing, BLOCK_BYTES))
            if block is None:
                raise BitstreamError(
                    "the stream does not block and has no data yet. Open it in blocking mode."
                )
            if not block:
                break
            self._kept += block
        data = bytes(self._kept[self._at : self._at + count])
        self._at += len(data)
        return data

    def rewind(self, position: int) -> None:
        """Go back to a position since the last `release`."""
        assert self._first <= position <= self.position, f"{position} is not kept"
        self._at = position - self._first

    def release(self) -> None:
        """Forget all bytes before the position."""
        del self._kept[: self._at]
        self._first, self._at = self.position, 0

    def seek(self, position: int) -> None:
        """Go to any position of a seekable stream."""
        self._stream.seek(self._base + position)
        self._kept.clear()
        self._first, self._at = position, 0

    def size(self) -> int:
        """Return the number of bytes of a seekable stream; keeps the position."""
        end = self._stream.seek(0, io.SEEK_END) - self._base
        self._stream.seek(self._base + self._first + len(self._kept))
        return end

    # fields

    def need(self, count: int, what: str) -> bytes:
        """Return exactly `count` bytes. Raises BitstreamError at the end of the stream."""
        data = self.take(count)
        if len(data) < count:
            raise truncated(self.position, what)
        return data

    def number(self, what: str) -> int:
        """Return the next varint. Raises BitstreamError unless it has its shortest form and 63 bits."""
        value = 0
        for index in range(9):
            byte = self.need(1, what)[0]
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if byte == 0 and index > 0:
                    break  # not the shortest form: equal packets must have equal bytes
                return value
        raise malformed(f"a number of {what} is too long")

    def runs(self, name: str, maximum: int) -> tuple[int, ...]:
        """Return one number per codebook, from 1 to `maximum`, in the form that `runs` writes."""
        values: list[int] = []
        for _ in range(self.number("its header")):
            count, value = self.number("its header"), self.number("its header")
            if not (0 < count <= MAX_CODEBOOKS - len(values) and 0 < value <= maximum):
                raise malformed(f"{len(values)} + {count} {name} of {value}")
            values += [value] * count
        if not values:
            raise malformed(f"no {name}")
        return tuple(values)


def runs(values: Sequence[int]) -> list[int]:
    """Return the number of runs of equal values, then length and value of each run.

    For example, up to 127 codebooks of 5 entries take 3 bytes.
    """
    pairs = [(len(list(group)), value) for value, group in groupby(values)]
    return [len(pairs), *(number for pair in pairs for number in pair)]


def varint(value: int) -> bytes:
    """Return a number as a varint: 7 bits per byte, least significant first."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def malformed(details: str) -> BitstreamError:
    """Return the error for values that the writer never produces."""
    return BitstreamError(f"it is invalid ({details}): the file is damaged. Use another copy.")


def truncated(have: int, what: str) -> BitstreamError:
    """Return the error for a file that ends within `what`."""
    return BitstreamError(
        f"it ends after {have} bytes, within {what}: the file is truncated. Use another copy."
    )


def _is_seekable(stream: BinaryIO) -> bool:
    try:
        return stream.seekable()
    except (AttributeError, ValueError, OSError):
        return False

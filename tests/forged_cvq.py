"""Forged `.cvq` files with valid checksums: versions 1 and 2 from numbers, version 3 from parts of a file."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from codecvq.bitstream import CvqReader


def varint(value: int) -> bytes:
    """A number in the encoding of the header."""
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def forged(kind: int, numbers: Iterable[int], payload: bytes, version: int = 1) -> bytes:
    """A file of version 1 or 2 with a valid checksum and these header numbers. The codec has hashes of 0."""
    head = b"CVQ" + bytes([version, kind]) + bytes(20) + b"".join(map(varint, numbers)) + payload
    return head + zlib.crc32(head).to_bytes(4, "little")


class Parts(NamedTuple):
    """A file of version 3 without its checksums."""

    header: bytes  # from the magic to the last field
    chunks: list[tuple[int, bytes]]  # tag and body of each
    end: bytes  # from the tag to the last field


def parts_of(data: bytes) -> Parts:
    """Take a whole file apart."""
    header_bytes = CvqReader(io.BytesIO(data))._header.num_bytes
    at, chunks = header_bytes, []
    while data[at] != 0xE5:
        tag, length, shift = data[at], 0, 0
        at += 1
        while data[at] >= 128:
            length, shift, at = length | (data[at] & 127) << shift, shift + 7, at + 1
        length, at = length | data[at] << shift, at + 1
        chunks.append((tag, data[at : at + length]))
        at += length + 4
    end_bytes = data[-1] if data[-1] < 128 else (data[-1] & 127) | data[-2] << 7
    return Parts(data[: header_bytes - 2], chunks, data[at : at + end_bytes - 4])


def signed(parts: Parts) -> bytes:
    """Put a file together, with lengths and checksums that are right."""
    checksum = zlib.crc32(parts.header)

    def with_crc(content: bytes) -> bytes:
        return content + zlib.crc32(content, checksum).to_bytes(4, "little")

    header = parts.header + checksum.to_bytes(4, "little")[:2]
    chunks = [with_crc(bytes([tag]) + varint(len(body)) + body) for tag, body in parts.chunks]
    end = with_crc(parts.end)
    return b"".join([header, *chunks, end]) + varint(len(end))[::-1]


def indexed(parts: Parts, frames: int, num_samples: int) -> bytes:
    """Put a file together with an end record that matches the chunks."""
    sizes = [1 + len(varint(len(body))) + len(body) + 4 for _, body in parts.chunks[:-1]]
    end = b"\xe5" + b"".join(map(varint, (frames, num_samples, *sizes)))
    return signed(parts._replace(end=end))

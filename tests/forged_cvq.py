"""Forged `.cvq` files with valid checksums."""

from __future__ import annotations

import zlib
from collections.abc import Iterable


def varint(value: int) -> bytes:
    """A number in the encoding of the header."""
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def forged(kind: int, numbers: Iterable[int], payload: bytes, version: int = 1) -> bytes:
    """A file with a valid checksum and the given header numbers. All hashes of its codec are 0."""
    head = b"CVQ" + bytes([version, kind]) + bytes(20) + b"".join(map(varint, numbers)) + payload
    return head + zlib.crc32(head).to_bytes(4, "little")

"""What stands around the codes in a `.cvq` file: see `format` for the layout."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from codecvq.errors import BitstreamError
from codecvq.limits import MAX_CODEBOOK_SIZE, MAX_CODEBOOKS

MAGIC = b"CVQ\x01"
KINDS = ("packed", "entropy", "digits")
CODEBOOKS_ID_BYTES, WEIGHTS_ID_BYTES, CRC_BYTES = 16, 4, 4
FIXED_BYTES = len(MAGIC) + 1 + CODEBOOKS_ID_BYTES + WEIGHTS_ID_BYTES
CODES_PER_BYTE = 256  # at most, so that a few bytes cannot claim a day of silence
MAX_RATE = 2**32 - 1  # Hz, and samples a frame
MAX_NUMBER = 2**63 - 1  # that a varint holds


@dataclass(frozen=True)
class Header:
    """All that a file says about its codes."""

    kind: str  # one of KINDS
    codebooks_id: str  # the first 32 hexadecimal digits of the codec's codebooks_sha256
    weights_id: str  # the first 8 of its weights_sha256
    sample_rate: int  # Hz
    hop_length: int  # samples a frame
    num_samples: int
    frames: int
    sizes: tuple[int, ...]  # K of each codebook

    def around(self, payload: bytes) -> bytes:
        """The bytes of the file with this payload, which is filled up to the least that a reader takes."""
        payload += bytes(max(0, self.least_payload - len(payload)))
        fields = (self.sample_rate, self.hop_length, self.num_samples, self.frames, len(payload))
        head = b"".join((
            MAGIC, bytes([KINDS.index(self.kind)]),
            bytes.fromhex(self.codebooks_id), bytes.fromhex(self.weights_id),
            *map(_varint, (*fields, *_runs(self.sizes))),
        ))  # fmt: skip
        return head + payload + zlib.crc32(head + payload).to_bytes(CRC_BYTES, "little")

    @property
    def least_payload(self) -> int:
        """Bytes of payload that these codes have at least."""
        return len(self.sizes) * self.frames // CODES_PER_BYTE


def split(data: bytes) -> tuple[Header, bytes]:
    """Header and payload of a file; raises BitstreamError where a length, the checksum or a number is wrong.

    Takes time and memory of the size of `data`, whatever the numbers are.
    """
    fields = _Fields(data)
    numbers = fields.numbers(5)
    sizes = fields.sizes()
    payload = fields.payload(numbers.pop())
    kind = data[len(MAGIC)]
    if kind >= len(KINDS):
        raise malformed(f"payload kind {kind}")
    sample_rate, hop_length, num_samples, frames = numbers
    codebooks_id = data[FIXED_BYTES - WEIGHTS_ID_BYTES - CODEBOOKS_ID_BYTES : FIXED_BYTES - WEIGHTS_ID_BYTES]
    weights_id = data[FIXED_BYTES - WEIGHTS_ID_BYTES : FIXED_BYTES]
    header = Header(
        KINDS[kind], codebooks_id.hex(), weights_id.hex(), sample_rate, hop_length, num_samples, frames, sizes
    )
    if not (0 < sample_rate <= MAX_RATE and 0 < hop_length <= MAX_RATE):
        raise malformed(f"sample rate {sample_rate} and hop {hop_length}")
    if num_samples > frames * hop_length:
        raise malformed(f"{num_samples} samples in {frames} frames of {hop_length}")
    if len(payload) < header.least_payload:
        raise malformed(f"{len(sizes)} x {frames} codes in {len(payload)} bytes")
    return header, payload


class _Fields:
    """A reader that goes through a file, checking each field as it comes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        if not data.startswith(MAGIC[:3]):
            raise BitstreamError(
                f"it begins with {bytes(data[:4])!r}, not with {MAGIC[:3]!r}: not a .cvq file."
            )
        if data[3:4] != MAGIC[3:] and len(data) > 3:
            raise BitstreamError(
                f"it is of version {data[3]}, and this codecvq reads version {MAGIC[3]}. Install a newer one."
            )
        if len(data) < FIXED_BYTES:
            raise _truncated(len(data), "its header")
        self.at = FIXED_BYTES

    def numbers(self, count: int) -> list[int]:
        return [self._varint() for _ in range(count)]

    def sizes(self) -> tuple[int, ...]:
        sizes: list[int] = []
        for _ in range(self._varint()):
            count, size = self._varint(), self._varint()
            if not (0 < count <= MAX_CODEBOOKS - len(sizes) and 0 < size <= MAX_CODEBOOK_SIZE):
                raise malformed(f"{len(sizes)} + {count} codebooks, of size {size}")
            sizes += [size] * count
        if not sizes:
            raise malformed("no codebooks")
        return tuple(sizes)

    def payload(self, length: int) -> bytes:
        data, end = self.data, self.at + length
        if len(data) < end + CRC_BYTES:
            raise _truncated(len(data), f"{end + CRC_BYTES}")
        if len(data) > end + CRC_BYTES:
            raise BitstreamError(
                f"it has {len(data) - end - CRC_BYTES} bytes more than its header says. Read one file at a "
                "time."
            )
        if zlib.crc32(memoryview(data)[:end]) != int.from_bytes(data[end:], "little"):
            raise BitstreamError(
                "its checksum does not fit: the file is damaged. Take another copy, or encode the audio "
                "again."
            )
        return data[self.at : end]

    def _varint(self) -> int:
        value = 0
        for place in range(9):
            if self.at == len(self.data):
                raise _truncated(len(self.data), "its header")
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                if byte == 0 and place > 0:
                    break  # a shorter form exists; every number has one, so equal packets are equal bytes
                return value
        raise malformed("a number in its header has no end")


def malformed(what: str) -> BitstreamError:
    """The error for numbers that no writer writes."""
    return BitstreamError(f"its header makes no sense ({what}): the file is damaged. Take another copy.")


def _truncated(have: int, need: str) -> BitstreamError:
    return BitstreamError(f"it ends after {have} bytes of {need}: the file is truncated. Take another copy.")


def _runs(sizes: Sequence[int]) -> list[int]:
    """Number of runs of equal sizes, then length and size of each: 3 bytes for any number of codebooks of
    5.
    """
    runs = [(len(list(group)), size) for size, group in groupby(sizes)]
    return [len(runs), *(number for run in runs for number in run)]


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])

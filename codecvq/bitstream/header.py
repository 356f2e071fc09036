"""Header and checksum of a `.cvq` file; `format` documents the layout."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from codecvq.bitstream.layout import Layout
from codecvq.errors import BitstreamError
from codecvq.limits import MAX_CODEBOOK_SIZE, MAX_CODEBOOKS

MAGIC = b"CVQ"
VERSIONS = (1, 2)  # 2 only with strides, depths or learned tables
KINDS = ("packed", "entropy", "digits", "learned")
WITH_STRIDES, WITH_DEPTHS = 0x40, 0x80  # bits of the kind byte in version 2
CODEBOOKS_ID_BYTES, WEIGHTS_ID_BYTES, CRC_BYTES = 16, 4, 4
FIXED_BYTES = len(MAGIC) + 2 + CODEBOOKS_ID_BYTES + WEIGHTS_ID_BYTES
CODES_PER_BYTE = 256  # maximum, so that a file of a few bytes cannot claim hours of audio
MAX_RATE = 2**32 - 1  # Hz; also the maximum hop length in samples
MAX_NUMBER = 2**63 - 1  # largest value of a varint
MAX_STRIDE = 2**32 - 1  # frames


@dataclass(frozen=True)
class Header:
    """The header fields of a file."""

    kind: str  # one of KINDS
    codebooks_id: str  # the first 32 hexadecimal digits of the codec's codebooks_sha256
    weights_id: str  # the first 8 of its weights_sha256
    sample_rate: int  # Hz
    hop_length: int  # samples per frame
    num_samples: int
    frames: int
    sizes: tuple[int, ...]  # K of each codebook
    strides: tuple[int, ...]  # frames per code, of each codebook
    depth_bytes: int | None = None  # payload bytes of the depths, which come first; None: no depths

    @property
    def version(self) -> int:
        """The format version: the earliest that can store this header."""
        return 2 if self.kind_byte >= KINDS.index("learned") else 1

    @property
    def kind_byte(self) -> int:
        """The kind, with the flags for strides and depths."""
        strides = WITH_STRIDES * any(stride != 1 for stride in self.strides)
        return KINDS.index(self.kind) | strides | WITH_DEPTHS * (self.depth_bytes is not None)

    @property
    def layout(self) -> Layout:
        """The layout of the codes, without depths: these are in the payload."""
        return Layout(self.sizes, self.strides, self.frames)

    def to_bytes(self, payload: bytes) -> bytes:
        """Return the bytes of the file; a short payload is padded with zeros to `min_payload_bytes`."""
        payload += bytes(max(0, self.min_payload_bytes - len(payload)))
        fields = (self.sample_rate, self.hop_length, self.num_samples, self.frames, len(payload))
        strides = _runs(self.strides) if self.kind_byte & WITH_STRIDES else []
        depths = [] if self.depth_bytes is None else [self.depth_bytes]
        head = b"".join((
            MAGIC, bytes([self.version, self.kind_byte]),
            bytes.fromhex(self.codebooks_id), bytes.fromhex(self.weights_id),
            *map(_varint, (*fields, *_runs(self.sizes), *strides, *depths)),
        ))  # fmt: skip
        return head + payload + zlib.crc32(head + payload).to_bytes(CRC_BYTES, "little")

    @property
    def min_payload_bytes(self) -> int:
        """The minimum number of payload bytes for these codes."""
        return len(self.sizes) * self.frames // CODES_PER_BYTE


def parse_file(data: bytes) -> tuple[Header, bytes]:
    """Split a file into header and payload.

    Time and memory are proportional to the size of `data`, for any values in the header. Raises
    BitstreamError if a length, the checksum or a number is wrong.
    """
    fields = _FieldReader(data)
    numbers = fields.numbers(5)
    sizes = fields.runs("codebooks", MAX_CODEBOOK_SIZE)
    version, kind = data[len(MAGIC)], data[len(MAGIC) + 1]
    flags = kind & (WITH_STRIDES | WITH_DEPTHS) if version == 2 else 0
    strides = fields.runs("strides", MAX_STRIDE) if flags & WITH_STRIDES else (1,) * len(sizes)
    depth_bytes = fields.numbers(1)[0] if flags & WITH_DEPTHS else None
    payload = fields.payload(numbers.pop())
    if kind - flags >= len(KINDS):
        raise malformed(f"payload kind {kind}")
    ids = data[FIXED_BYTES - WEIGHTS_ID_BYTES - CODEBOOKS_ID_BYTES : FIXED_BYTES].hex()
    sample_rate, hop_length, num_samples, frames = numbers
    header = Header(
        KINDS[kind - flags], ids[: 2 * CODEBOOKS_ID_BYTES], ids[2 * CODEBOOKS_ID_BYTES :],
        sample_rate, hop_length, num_samples, frames, sizes, strides, depth_bytes,
    )  # fmt: skip
    _check_consistency(header, version, kind, payload)
    return header, payload


def _check_consistency(header: Header, version: int, kind_byte: int, payload: bytes) -> None:
    """Raise BitstreamError if header fields contradict each other or the version and kind of the file."""
    sizes, frames, hop_length = header.sizes, header.frames, header.hop_length
    if not (0 < header.sample_rate <= MAX_RATE and 0 < hop_length <= MAX_RATE):
        raise malformed(f"sample rate {header.sample_rate} and hop {hop_length}")
    if header.num_samples > frames * hop_length:
        raise malformed(f"{header.num_samples} samples in {frames} frames of {hop_length}")
    if len(header.strides) != len(sizes):
        raise malformed(f"{len(header.strides)} strides of {len(sizes)} codebooks")
    # One encoding per header, so that equal packets have equal bytes.
    if (header.version, header.kind_byte) != (version, kind_byte):
        raise malformed(f"version {version} and kind {kind_byte} do not match the other fields")
    if (header.depth_bytes or 0) > len(payload):
        raise malformed(f"{header.depth_bytes} bytes of depths in a payload of {len(payload)}")
    if len(payload) < header.min_payload_bytes:
        raise malformed(f"{len(sizes)} x {frames} codes in {len(payload)} bytes")


class _FieldReader:
    """Reads the fields of a file in order and checks each one."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        if not data.startswith(MAGIC):
            raise BitstreamError(f"it starts with {bytes(data[:4])!r}, not {MAGIC!r}: it is not a .cvq file.")
        if len(data) > len(MAGIC) and data[len(MAGIC)] not in VERSIONS:
            raise BitstreamError(
                f"it has format version {data[len(MAGIC)]}, but this codecvq reads versions "
                f"{' and '.join(map(str, VERSIONS))}. Install a newer codecvq."
            )
        if len(data) < FIXED_BYTES:
            raise _truncated(len(data), "its header")
        self.offset = FIXED_BYTES

    def numbers(self, count: int) -> list[int]:
        return [self._varint() for _ in range(count)]

    def runs(self, name: str, maximum: int) -> tuple[int, ...]:
        """Read one number per codebook, from 1 to `maximum`, in the form that `_runs` writes."""
        values: list[int] = []
        for _ in range(self._varint()):
            count, value = self._varint(), self._varint()
            if not (0 < count <= MAX_CODEBOOKS - len(values) and 0 < value <= maximum):
                raise malformed(f"{len(values)} + {count} {name} of {value}")
            values += [value] * count
        if not values:
            raise malformed(f"no {name}")
        return tuple(values)

    def payload(self, length: int) -> bytes:
        data, end = self.data, self.offset + length
        if len(data) < end + CRC_BYTES:
            raise _truncated(len(data), f"{end + CRC_BYTES}")
        if len(data) > end + CRC_BYTES:
            raise BitstreamError(
                f"it has {len(data) - end - CRC_BYTES} bytes more than its header claims. Read one file at a "
                "time."
            )
        if zlib.crc32(memoryview(data)[:end]) != int.from_bytes(data[end:], "little"):
            raise BitstreamError(
                "its checksum does not match: the file is damaged. Use another copy, or encode the audio "
                "again."
            )
        return data[self.offset : end]

    def _varint(self) -> int:
        value = 0
        for index in range(9):
            if self.offset == len(self.data):
                raise _truncated(len(self.data), "its header")
            byte = self.data[self.offset]
            self.offset += 1
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if byte == 0 and index > 0:
                    break  # not the shortest form: equal packets must have equal bytes
                return value
        raise malformed("a number in its header is too long")


def malformed(details: str) -> BitstreamError:
    """Return the error for header values that the writer never produces."""
    return BitstreamError(f"its header is invalid ({details}): the file is damaged. Use another copy.")


def _truncated(have: int, need: str) -> BitstreamError:
    return BitstreamError(f"it ends after {have} bytes of {need}: the file is truncated. Use another copy.")


def _runs(values: Sequence[int]) -> list[int]:
    """Return the number of runs of equal values, then length and value of each run.

    For example, up to 127 codebooks of 5 entries take 3 bytes.
    """
    runs = [(len(list(group)), value) for value, group in groupby(values)]
    return [len(runs), *(number for run in runs for number in run)]


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])

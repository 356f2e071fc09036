"""Reading of `.cvq` files of versions 1 and 2: one header, one payload, one checksum.

Layout of a file:

    magic            4 bytes   b"CVQ" and the version, 1 or 2
    kind             1 byte    0 packed, 1 entropy, 2 digits; version 2: 3 learned; + 64: with strides;
                               + 128: with depths
    codebooks hash  16 bytes   start of the codec's `codebooks_sha256`
    weights hash     4 bytes   start of its `weights_sha256`
    numbers          varints   sample rate, hop length, samples, frames, payload bytes
    codebooks        varints   number of runs of equal sizes; for each run its number of codebooks and size
    strides          varints   only if a stride is not 1: runs in the same form as the sizes
    depths           varint    only if codes are absent: payload bytes of the depths
    payload
    CRC-32           4 bytes   of everything before it, little-endian

A file has version 1 if all strides are 1, no code is absent and the kind is not `learned`. The payload is
that of one channel in version 3, with at least one byte per 256 codes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from codecvq.api.code_tables import CodeTables
from codecvq.bitstream.chunk import CRC_BYTES, Chunk
from codecvq.bitstream.cost import decoding_steps, learned_decoding_steps
from codecvq.bitstream.header import (
    CODEBOOKS_ID_BYTES,
    MAGIC,
    MAX_RATE,
    MAX_STRIDE,
    WEIGHTS_ID_BYTES,
    Header,
)
from codecvq.bitstream.payload import KINDS, SPLIT_ABOVE, decode_payload
from codecvq.bitstream.source import Source, malformed
from codecvq.errors import BitstreamError
from codecvq.limits import MAX_CODEBOOK_SIZE

VERSIONS = (1, 2)
WITH_STRIDES, WITH_DEPTHS = 0x40, 0x80  # bits of the kind byte in version 2
CODES_PER_BYTE = 256  # maximum


@dataclass(frozen=True, eq=False)
class EarlierFile:
    """The content of a file of version 1 or 2, as one chunk whose codes are not decoded yet."""

    header: Header
    kind: str
    frames: int
    depth_bytes: int | None  # payload bytes of the depths, which come first; None: no depths
    payload: bytes
    num_bytes: int  # of the file
    first_frame = 0

    @property
    def min_payload_bytes(self) -> int:
        """The minimum number of payload bytes for these codes."""
        return len(self.header.sizes) * self.frames // CODES_PER_BYTE

    def steps(self, tables: CodeTables | None) -> int:
        """Return the maximum number of steps that `decode` takes; for the unit see `cost`."""
        layout, with_depths = self.header.layout(self.frames), self.depth_bytes is not None
        if tables is None:
            return decoding_steps(layout, SPLIT_ABOVE.get(self.kind), with_depths)
        return learned_decoding_steps(layout, tables, with_depths)

    def decode(self, tables: CodeTables | None) -> Chunk:
        """Return the content as one chunk. Raises BitstreamError for an invalid payload."""
        codes, bits = decode_payload(
            self.kind, self.header.layout(self.frames), self.payload, self.depth_bytes,
            self.min_payload_bytes, tables,
        )  # fmt: skip
        silent = np.zeros((1, self.frames), dtype=bool)
        return Chunk(0, codes[None], silent, self.kind, bits, self.num_bytes)


def read_earlier(data: bytes) -> EarlierFile:
    """Read a file without its codes.

    Time and memory are proportional to the size of `data`, for any values in the header. Raises
    BitstreamError if a length, the checksum or a number is wrong.
    """
    source, what = Source.of(data), "its header"
    version, kind_byte = source.need(len(MAGIC) + 2, what)[-2:]
    ids = source.need(CODEBOOKS_ID_BYTES, what).hex(), source.need(WEIGHTS_ID_BYTES, what).hex()
    rate, hop, num_samples, frames, length = (source.number(what) for _ in range(5))
    sizes = source.runs("codebooks", MAX_CODEBOOK_SIZE)
    flags = kind_byte & (WITH_STRIDES | WITH_DEPTHS) if version == 2 else 0
    strides = source.runs("strides", MAX_STRIDE) if flags & WITH_STRIDES else (1,) * len(sizes)
    depth_bytes = source.number(what) if flags & WITH_DEPTHS else None
    payload = source.need(length, "its payload")
    check = source.need(CRC_BYTES, "its checksum")
    if rest := len(data) - source.position:
        raise BitstreamError(f"it has {rest} bytes more than its header claims. Read one file at a time.")
    if zlib.crc32(memoryview(data)[:-CRC_BYTES]) != int.from_bytes(check, "little"):
        raise BitstreamError(
            "its checksum does not match: the file is damaged. Use another copy, or encode the audio again."
        )
    if kind_byte - flags >= len(KINDS):
        raise malformed(f"payload kind {kind_byte}")
    if len(strides) != len(sizes):
        raise malformed(f"{len(strides)} strides of {len(sizes)} codebooks")
    header = Header(*ids, rate, hop, sizes, strides, max(1, frames), rate, original_num_samples=num_samples)
    file = EarlierFile(header, KINDS[kind_byte - flags], frames, depth_bytes, payload, len(data))
    _check(file, version, kind_byte, num_samples)
    return file


def _check(file: EarlierFile, version: int, kind_byte: int, num_samples: int) -> None:
    """Raise BitstreamError if header fields contradict each other or the version and kind of the file."""
    header, frames = file.header, file.frames
    if not (0 < header.sample_rate <= MAX_RATE and 0 < header.hop_length <= MAX_RATE):
        raise malformed(f"sample rate {header.sample_rate} and hop {header.hop_length}")
    if num_samples > frames * header.hop_length:
        raise malformed(f"{num_samples} samples in {frames} frames of {header.hop_length}")
    # One encoding per header, so that equal packets have equal bytes.
    flags = WITH_STRIDES * any(stride != 1 for stride in header.strides)
    expected = KINDS.index(file.kind) | flags | WITH_DEPTHS * (file.depth_bytes is not None)
    if (2 if expected >= KINDS.index("learned") else 1, expected) != (version, kind_byte):
        raise malformed(f"version {version} and kind {kind_byte} do not match the other fields")
    if (file.depth_bytes or 0) > len(file.payload):
        raise malformed(f"{file.depth_bytes} bytes of depths in a payload of {len(file.payload)}")
    if len(file.payload) < file.min_payload_bytes:
        raise malformed(f"{len(header.sizes)} x {frames} codes in {len(file.payload)} bytes")

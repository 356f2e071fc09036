"""A chunk of a `.cvq` file: the codes of all channels for a span of frames, readable without other chunks."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from codecvq.api.code_tables import CodeTables
from codecvq.bitstream.cost import STEPS_PER_CODE, decoding_steps, learned_decoding_steps
from codecvq.bitstream.header import Header
from codecvq.bitstream.layout import Layout
from codecvq.bitstream.packed import Codes
from codecvq.bitstream.payload import KINDS, SPLIT_ABOVE, Entropy, decode_payload, encode_payload
from codecvq.bitstream.silence import Silent, read_silence, write_silence
from codecvq.bitstream.source import Source, malformed, varint
from codecvq.errors import BitstreamError

CHUNK_TAG = 0xA0  # the high half of the first byte of a chunk
WITH_FIELDS = 0x08  # bit of the first byte; the bits below are the kind
WITH_FRAMES, WITH_SILENCE, WITH_DEPTHS = 1, 2, 4  # bits of the byte of fields
CRC_BYTES = 4


@dataclass(frozen=True, eq=False)
class Chunk:
    """The content of a chunk: codes `[C, N, t]` int64 from `first_frame` on.

    Codes of silent frames are not stored; they are 0. Codes of a codebook with a stride above 1 repeat over
    the frames of their block. Absent codes are -1.
    """

    first_frame: int
    codes: Codes  # [C, N, t]
    silent: Silent  # [C, t], True at frames that the writer marked as silent
    kind: str  # packed, entropy, digits or learned
    payload_bits: int  # codes and depths without padding
    num_bytes: int  # in the file, with header and checksum

    @property
    def end_frame(self) -> int:
        """The first frame after the chunk."""
        return self.first_frame + self.codes.shape[2]


class ChunkLayouts(NamedTuple):
    """The codes of a chunk that are stored, for each channel."""

    codes: list[Codes]  # [N, t'] each, without silent frames
    layouts: list[Layout]
    silent: Silent  # [C, t]


def write_chunk(
    header: Header, number: int, chunk: ChunkLayouts, entropy: Entropy, tables: CodeTables | None
) -> bytes:
    """Return the bytes of chunk `number`, in the kind that gives the fewest."""
    channels = [
        encode_payload(codes, layout, entropy, tables)
        for codes, layout in zip(chunk.codes, chunk.layouts, strict=True)
    ]
    kind = min(
        channels[0], key=lambda kind: sum(len(payloads[kind].data) for payloads in channels)
    )  # a tie selects the simplest kind
    payloads = [candidates[kind] for candidates in channels]
    frames = chunk.silent.shape[1]
    min_bytes = header.min_payload_bytes(frames)
    parts = [payload.data + bytes(max(0, min_bytes - len(payload.data))) for payload in payloads]
    with_depths = any(payload.depths is not None for payload in payloads)
    flags = (
        WITH_FRAMES * (frames != header.chunk_frames)
        | WITH_SILENCE * bool(chunk.silent.any())
        | WITH_DEPTHS * with_depths
    )
    body = [varint(number)]
    if flags:
        body.append(bytes([flags]))
        body += [varint(frames)] if flags & WITH_FRAMES else []
        body += map(write_silence, chunk.silent) if flags & WITH_SILENCE else []
        depths = [0 if payload.depths is None else 1 + len(payload.depths) for payload in payloads]
        body += map(varint, depths) if with_depths else []
    body += [varint(len(part)) for part in parts[:-1]]
    content = b"".join((*body, *parts))
    if len(content) > header.max_body_bytes:
        raise BitstreamError(
            f"chunk {number} has {len(content):,} bytes, more than the limit of {header.max_body_bytes:,}. "
            "Use entropy='auto'."
        )
    head = bytes([CHUNK_TAG | WITH_FIELDS * bool(flags) | KINDS.index(kind)])
    data = head + varint(len(content)) + content
    return data + zlib.crc32(data, header.checksum).to_bytes(CRC_BYTES, "little")


class StoredChunk:
    """A chunk with a valid checksum, before its codes are decoded."""

    def __init__(self, header: Header, tag: int, number: int, body: Source, num_bytes: int) -> None:
        """Read the fields of the body. Raises BitstreamError if they contradict each other."""
        self.header, self.number, self.num_bytes = header, number, num_bytes
        if tag & ~(CHUNK_TAG | WITH_FIELDS) >= len(KINDS):
            raise malformed(f"kind {tag & ~(CHUNK_TAG | WITH_FIELDS)}")
        self.kind = KINDS[tag & ~(CHUNK_TAG | WITH_FIELDS)]
        what, channels = "its fields", header.coded_channels
        flags = body.need(1, what)[0] if tag & WITH_FIELDS else 0
        if flags > WITH_FRAMES | WITH_SILENCE | WITH_DEPTHS or bool(tag & WITH_FIELDS) != bool(flags):
            raise malformed(f"fields {flags}")
        self.frames = body.number(what) if flags & WITH_FRAMES else header.chunk_frames
        is_short = 0 < self.frames < header.chunk_frames
        if self.frames > header.max_frames or is_short != bool(flags & WITH_FRAMES):
            raise malformed(f"{self.frames} frames in a chunk of {header.chunk_frames}")
        self.silent: Silent = np.zeros((channels, self.frames), dtype=bool)
        if flags & WITH_SILENCE:
            block = math.lcm(*header.strides)
            self.silent = np.stack([read_silence(body, self.frames, block) for _ in range(channels)])
            if not self.silent.any():
                raise malformed("silence without a silent frame")
        depths = [body.number(what) if flags & WITH_DEPTHS else 0 for _ in range(channels)]
        self._depth_bytes = [depth - 1 if depth else None for depth in depths]
        if flags & WITH_DEPTHS and not any(depths):
            raise malformed("depths without an absent code")
        lengths = [body.number(what) for _ in range(channels - 1)]
        self._payloads = [body.need(length, what) for length in lengths]
        self._payloads.append(body.take(num_bytes))
        self._min_bytes = header.min_payload_bytes(self.frames)
        if min(map(len, self._payloads)) < self._min_bytes:
            raise malformed(f"{len(header.sizes)} x {self.frames} codes in {len(self._payloads[-1])} bytes")

    @property
    def first_frame(self) -> int:
        """The frame of the recording at which the chunk starts."""
        return self.number * self.header.chunk_frames

    @property
    def _is_plain(self) -> bool:
        """Whether the payload of one channel has all codes."""
        return len(self.silent) == 1 and not self.silent.any()

    def _layouts(self) -> list[Layout]:
        coded = self.frames - self.silent.sum(axis=1)
        return [self.header.layout(int(frames)) for frames in coded]

    def steps(self, tables: CodeTables | None) -> int:
        """Return the maximum number of steps that `decode` takes; for the unit see `cost`."""
        total = 0
        for layout, depth_bytes in zip(self._layouts(), self._depth_bytes, strict=True):
            with_depths = depth_bytes is not None
            if tables is None or self.kind != "learned":
                total += decoding_steps(layout, SPLIT_ABOVE.get(self.kind), with_depths)
            else:
                total += learned_decoding_steps(layout, tables, with_depths)
        copied = 0 if self._is_plain else self.silent.size * len(self.header.sizes)
        return total + STEPS_PER_CODE * copied

    def decode(self, tables: CodeTables | None) -> Chunk:
        """Return the content. Raises BitstreamError for an invalid payload."""
        decoded = (
            decode_payload(self.kind, layout, payload, depth_bytes, self._min_bytes, tables)
            for layout, payload, depth_bytes in zip(
                self._layouts(), self._payloads, self._depth_bytes, strict=True
            )
        )
        if self._is_plain:
            ((coded, bits),) = decoded
            return Chunk(self.first_frame, coded[None], self.silent, self.kind, bits, self.num_bytes)
        codes = np.zeros((len(self.silent), len(self.header.sizes), self.frames), dtype=np.int64)
        bits = 0
        for channel, (coded, channel_bits) in enumerate(decoded):
            codes[channel][:, ~self.silent[channel]] = coded
            bits += channel_bits
        return Chunk(self.first_frame, codes, self.silent, self.kind, bits, self.num_bytes)


def read_chunk(source: Source, header: Header, first_number: int = 0) -> StoredChunk:
    """Read the chunk at the position of the source.

    Raises BitstreamError if its length or checksum is wrong, or its number is below `first_number`; a wrong
    length is found before its bytes are read.
    """
    start, what = source.position, "a chunk"
    tag = source.need(1, what)[0]
    if tag & 0xF0 != CHUNK_TAG:
        raise BitstreamError(f"a byte {tag:#04x} is where a chunk should start: the file is damaged.")
    length = source.number(what)
    body_start = source.position
    if length > header.max_body_bytes:
        raise malformed(f"a chunk of {length:,} bytes; at most {header.max_body_bytes:,} are possible")
    number = source.number(what)
    if number < first_number:
        raise malformed(f"chunk {number} at the place of chunk {first_number}")
    source.rewind(body_start)
    body = source.need(length, what)
    check = source.need(CRC_BYTES, what)
    end = source.position
    source.rewind(start)
    data = source.take(end - start)
    if zlib.crc32(data[:-CRC_BYTES], header.checksum) != int.from_bytes(check, "little"):
        raise BitstreamError("its checksum does not match: the file is damaged.")
    fields = Source.of(body)
    if fields.number(what) != number:
        raise malformed("a chunk without a number")
    return StoredChunk(header, tag, number, fields, end - start)

"""The end record of a `.cvq` file: exact length, and an index of the chunks."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from codecvq.bitstream.header import Header
from codecvq.bitstream.source import Source, malformed, varint
from codecvq.errors import BitstreamError

END_TAG = 0xE5
CRC_BYTES = 4
MAX_LENGTH_BYTES = 9  # of the varint at the end of the file


@dataclass(frozen=True)
class EndRecord:
    """The totals of a file."""

    frames: int
    original_num_samples: int  # per channel, at the original sample rate
    chunk_bytes: tuple[int, ...]  # of all chunks except the last

    def to_bytes(self, header: Header) -> bytes:
        """Return the bytes of the record. Its length, backwards, is the last number of the file."""
        numbers = (self.frames, self.original_num_samples, *self.chunk_bytes)
        data = bytes([END_TAG]) + b"".join(map(varint, numbers))
        data += zlib.crc32(data, header.checksum).to_bytes(CRC_BYTES, "little")
        return data + varint(len(data))[::-1]


def read_end(source: Source, header: Header, max_chunks: int) -> EndRecord:
    """Read the end record at the position of the source.

    Raises BitstreamError if it is damaged, or counts more than `max_chunks` chunks.
    """
    start, what = source.position, "its end record"
    tag = source.need(1, what)[0]
    frames, num_samples = source.number(what), source.number(what)
    chunks = -(-frames // header.chunk_frames)
    if tag != END_TAG or chunks > max_chunks:
        raise malformed(f"{chunks} chunks in the end record; {max_chunks} are possible")
    chunk_bytes = tuple(source.number(what) for _ in range(chunks - 1))
    record = EndRecord(frames, num_samples, chunk_bytes)
    expected = record.to_bytes(header)
    source.rewind(start)
    if source.need(len(expected), what) != expected:
        raise BitstreamError("the checksum of its end record does not match: the file is damaged.")
    if header.coded_samples(num_samples) > frames * header.hop_length:
        raise malformed(f"{num_samples} samples in {frames} frames of {header.hop_length}")
    if header.original_num_samples not in (None, num_samples):
        raise malformed(f"{num_samples} samples; the header has {header.original_num_samples}")
    return record


def find_end(source: Source, header: Header) -> EndRecord | None:
    """Return the end record of a seekable source without reading the rest; None if there is no valid one."""
    position, size = source.position, source.size()
    try:
        source.seek(max(header.num_bytes, size - MAX_LENGTH_BYTES))
        length = Source.of(source.take(MAX_LENGTH_BYTES)[::-1])
        num_bytes = length.number("its end")
        start = size - length.position - num_bytes
        if start < header.num_bytes:
            return None
        source.seek(start)
        record = read_end(source, header, max_chunks=num_bytes)
        return record if source.position == size and chunks_fit(header, record.chunk_bytes, start) else None
    except BitstreamError:
        return None
    finally:
        source.seek(position)


def chunks_fit(header: Header, chunk_bytes: Sequence[int], end: int) -> bool:
    """Return whether chunks of these sizes fit between header and end record."""
    return header.num_bytes + sum(chunk_bytes) <= end

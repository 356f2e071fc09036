"""The header of a `.cvq` file: identity of the codec, layout of its codes, and format of the recording."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from codecvq.bitstream.layout import Layout
from codecvq.bitstream.source import Source, malformed, runs, varint
from codecvq.errors import BitstreamError
from codecvq.limits import MAX_CODEBOOK_SIZE

MAGIC = b"CVQ"
VERSION = 3
WITH_STRIDES, WITH_CHANNELS, WITH_RATE, WITH_LENGTH, WITH_TABLES = 1, 2, 4, 8, 16  # bits of the flags byte
CODEBOOKS_ID_BYTES, WEIGHTS_ID_BYTES, TABLES_ID_BYTES = 16, 4, 4
CHECK_BYTES = 2  # of the header's checksum; chunks check the other half
MAX_RATE = 2**32 - 1  # Hz; also the maximum hop length in samples
MAX_STRIDE = 2**32 - 1  # frames
MAX_CHANNELS = 255
MAX_CHUNK_FRAMES = 2**62
MAX_CHUNK_CODES = 1 << 21  # codes of a chunk, all channels and codebooks: 16 MiB as int64


@dataclass(frozen=True)
class Header:
    """The header fields of a file."""

    codebooks_id: str  # the first 32 hexadecimal digits of the codec's codebooks_sha256
    weights_id: str  # the first 8 of its weights_sha256
    sample_rate: int  # Hz, of the codec
    hop_length: int  # samples per frame
    sizes: tuple[int, ...]  # K of each codebook
    strides: tuple[int, ...]  # frames per code, of each codebook
    chunk_frames: int  # frames of every chunk except the last, which may have fewer
    original_sample_rate: int  # Hz, of the recording
    channels: int = 1  # of the recording
    coded_channels: int = 1  # C of the codes [C, N, T]
    original_num_samples: int | None = None  # per channel, at the original rate; None: unknown to the writer
    tables_id: str = ""  # the first 8 hexadecimal digits of CodeTables.sha256; empty: the codec has no tables

    @cached_property
    def data(self) -> bytes:
        """The bytes of the header, with its checksum."""
        data = b"".join((
            MAGIC, bytes([VERSION, self.flags]), *map(bytes.fromhex, (self.codebooks_id, self.weights_id,
            self.tables_id)), *map(varint, self._numbers()),
        ))  # fmt: skip
        return data + zlib.crc32(data).to_bytes(4, "little")[:CHECK_BYTES]

    @classmethod
    def read(cls, source: Source) -> Header:
        """Read the header that follows magic and version. Raises BitstreamError for any invalid byte."""
        what = "its header"
        flags = source.need(1, what)[0]
        if flags >= 2 * WITH_TABLES:
            raise malformed(f"flags {flags}")
        ids = [source.need(count, what).hex() for count in (
            CODEBOOKS_ID_BYTES, WEIGHTS_ID_BYTES, TABLES_ID_BYTES if flags & WITH_TABLES else 0
        )]  # fmt: skip
        rate, hop, chunk_frames = (source.number(what) for _ in range(3))
        sizes = source.runs("codebooks", MAX_CODEBOOK_SIZE)
        strides = source.runs("strides", MAX_STRIDE) if flags & WITH_STRIDES else (1,) * len(sizes)
        channels, coded_channels = (source.number(what) if flags & WITH_CHANNELS else 1 for _ in range(2))
        original_rate = source.number(what) if flags & WITH_RATE else rate
        num_samples = source.number(what) if flags & WITH_LENGTH else None
        header = cls(
            ids[0], ids[1], rate, hop, sizes, strides, chunk_frames, original_rate, channels, coded_channels,
            num_samples, ids[2],
        )  # fmt: skip
        if source.need(CHECK_BYTES, what) != header.data[-CHECK_BYTES:] or header.flags != flags:
            raise BitstreamError(
                "the checksum of its header does not match: the file is damaged. Use another copy, or encode "
                "the audio again."
            )
        header.check()
        return header

    @cached_property
    def flags(self) -> int:
        """The fields that are present, as the sum of their bits."""
        present = {
            WITH_STRIDES: any(stride != 1 for stride in self.strides),
            WITH_CHANNELS: (self.channels, self.coded_channels) != (1, 1),
            WITH_RATE: self.original_sample_rate != self.sample_rate,
            WITH_LENGTH: self.original_num_samples is not None,
            WITH_TABLES: bool(self.tables_id),
        }
        return sum(bit for bit, is_present in present.items() if is_present)

    @cached_property
    def checksum(self) -> int:
        """CRC-32 of the header. The checksums of chunks and end record continue it."""
        return zlib.crc32(self.data[:-CHECK_BYTES])

    @property
    def num_bytes(self) -> int:
        """Bytes of the header in the file."""
        return len(self.data)

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second."""
        return Fraction(self.sample_rate, self.hop_length)

    @property
    def max_frames(self) -> int:
        """The largest number of frames of a chunk."""
        return min(self.chunk_frames, MAX_CHUNK_CODES // (self.coded_channels * len(self.sizes)))

    @cached_property
    def max_body_bytes(self) -> int:
        """The largest number of bytes in the body of a chunk."""
        return 64 + self.coded_channels * (64 + self.max_frames * (16 * len(self.sizes) + 4))

    def layout(self, frames: int) -> Layout:
        """Return the layout of the codes of one channel, without depths."""
        return Layout(self.sizes, self.strides, frames)

    def seconds(self, frame: int) -> float:
        """Return the time at which a frame starts."""
        return frame * self.hop_length / self.sample_rate

    def coded_samples(self, original_num_samples: int) -> int:
        """Return the samples at the codec's rate that a recording of this length has after resampling."""
        return -(-original_num_samples * self.sample_rate // self.original_sample_rate)

    def min_payload_bytes(self, frames: int) -> int:
        """Return the minimum payload bytes of each channel of a chunk.

        With the rest of the chunk there is at least one byte per 256 codes, so that a file of a few bytes
        cannot claim hours of audio.
        """
        return max(0, len(self.sizes) * frames // 256 - 8)

    def check(self) -> None:
        """Raise BitstreamError if fields contradict each other."""
        sizes, rates = self.sizes, (self.sample_rate, self.hop_length, self.original_sample_rate)
        if not all(0 < rate <= MAX_RATE for rate in rates):
            raise malformed(f"sample rate {rates[0]}, hop {rates[1]} and original rate {rates[2]}")
        if len(self.strides) != len(sizes):
            raise malformed(f"{len(self.strides)} strides of {len(sizes)} codebooks")
        if not 1 <= self.coded_channels <= self.channels <= MAX_CHANNELS:
            raise malformed(f"{self.coded_channels} coded channels of {self.channels}")
        if self.coded_channels * len(sizes) > MAX_CHUNK_CODES:
            raise malformed(f"{self.coded_channels} x {len(sizes)} codebooks")
        block = math.lcm(*self.strides)
        if not 0 < self.chunk_frames <= MAX_CHUNK_FRAMES or self.chunk_frames % block:
            raise malformed(f"chunks of {self.chunk_frames} frames with blocks of {block}")

    def _numbers(self) -> list[int]:
        numbers = [self.sample_rate, self.hop_length, self.chunk_frames, *runs(self.sizes)]
        flags = self.flags
        numbers += runs(self.strides) if flags & WITH_STRIDES else []
        numbers += [self.channels, self.coded_channels] if flags & WITH_CHANNELS else []
        numbers += [self.original_sample_rate] if flags & WITH_RATE else []
        return numbers + ([] if self.original_num_samples is None else [self.original_num_samples])

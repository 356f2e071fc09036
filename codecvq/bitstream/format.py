"""Reading and writing of whole `.cvq` files: codes of one recording, identity of its codec, and exact length.

The page `docs/reference/cvq-format.md` specifies the format. `CvqWriter` and `CvqReader` work on pipes and
chunk by chunk; the functions here hold all codes in memory.

The cost of reading an untrusted file is bounded by its size:

- Checksum and numbers of the header are checked first, then the codec identity. Of each chunk, length and
  checksum are checked before its codes are decoded.
- A chunk has at least one byte per 256 codes `[C, N, T]`, counting repeated, absent and silent codes, and at
  most 2^21 codes. Time and memory of decoding are proportional to the number of codes and to the sum of the
  alphabet sizes.
- A reader without a codec accepts any codebooks, so it has a budget that grows with the file size. Speech
  stays far below it. Long digital silence or a thousand large codebooks can exceed it.
- Files larger than 256 MiB are neither written nor read at once.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codecvq.bitstream.chunk import Chunk
from codecvq.bitstream.header import MAX_CHUNK_CODES
from codecvq.bitstream.identity import whole_number
from codecvq.bitstream.packed import Codes
from codecvq.bitstream.payload import Entropy
from codecvq.bitstream.reader import MAX_FILE_BYTES, CvqReader, Gap, check_size
from codecvq.bitstream.silence import Silent
from codecvq.bitstream.source import MAX_NUMBER
from codecvq.bitstream.writer import CvqWriter
from codecvq.errors import BitstreamError
from codecvq.files import write_atomically
from codecvq.json_file import read_bounded

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec


@dataclass(frozen=True)
class Packet:
    """The content of a `.cvq` file: codes int64 and the header fields that describe them.

    Codes are `[N, T]`, or `[C, N, T]` if a codec of fewer channels than the recording coded them one by one.
    Codes of a codebook with a stride above 1 repeat over the frames of their block. Absent codes are -1.
    Codes of silent and missing frames are 0.
    """

    codes: Codes  # [N, T] or [C, N, T]
    num_samples: int  # per channel, at the codec's rate
    sample_rate: int  # Hz, of the codec
    hop_length: int  # samples per frame
    codebook_sizes: tuple[int, ...]
    strides: tuple[int, ...]  # frames per code, of each codebook
    codebooks_id: str  # the first 32 hexadecimal digits of the codec's codebooks_sha256
    weights_id: str  # the first 8 of its weights_sha256
    kind: str  # packed, entropy, digits or learned; of several kinds the one of most chunks
    payload_bits: int  # codes and depths without padding: what a measured bit rate counts
    file_bytes: int  # including headers and checksums
    silent: Silent  # [T] or [C, T], True at frames that the writer marked as silent
    channels: int  # of the recording
    original_sample_rate: int  # Hz, of the recording
    original_num_samples: int  # per channel, at the original rate
    gaps: tuple[Gap, ...]  # parts that are missing; empty unless read with `salvage`

    @property
    def duration_s(self) -> float:
        """Duration in seconds."""
        return self.num_samples / self.sample_rate

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second."""
        return Fraction(self.sample_rate, self.hop_length)


def pack(
    codec: AudioCodec,
    codes: Any,  # Any: array, tensor or lists
    num_samples: int,
    entropy: Entropy = "auto",
    *,
    channels: int | None = None,
    sample_rate: int | None = None,
    silent: Any = None,  # Any: array, tensor or lists
    chunk_s: float | None = None,
) -> bytes:
    """Return the bytes of a `.cvq` file with the codes `[N, T]` or `[C, N, T]` of one recording.

    `codes` is a numpy array, a torch tensor or nested lists of integers, for the first N codebooks of the
    codec. `num_samples` is the length per channel at `sample_rate`. By default the file has one chunk, which
    takes the fewest bytes; a file with a smaller `chunk_s` loses less when it is damaged. For the other
    arguments see `CvqWriter`.

    Raises BitstreamError if codes or length do not match the codec, or if the format cannot store a property
    of the codec.
    """
    stream = io.BytesIO()
    num_samples = whole_number(num_samples, "num_samples", 0, MAX_NUMBER)
    if chunk_s is None:
        chunk_s = _one_chunk_s(codec, codes)
    writer = CvqWriter(
        stream, codec, channels=channels, sample_rate=sample_rate, entropy=entropy, chunk_s=chunk_s
    )
    writer.write(codes, silent)
    writer.close(num_samples)
    data = stream.getvalue()
    if len(data) > MAX_FILE_BYTES:
        raise BitstreamError(
            f"the file would have {len(data):,} bytes, more than the limit of {MAX_FILE_BYTES:,}. Cut the "
            "clip into several files."
        )
    return data


def unpack(
    data: bytes,
    codec: AudioCodec | None = None,
    *,
    force: bool = False,
    budget: int | None = None,
    longest_s: float | None = None,
    salvage: bool = False,
) -> Packet:
    """Decode the bytes of a `.cvq` file.

    For the arguments see `CvqReader`. With `salvage`, the codes of missing frames are 0 in the result.

    Raises BitstreamError for a damaged or truncated file, for another codec, and for a file above one of the
    limits.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise BitstreamError(
            f"data is a {type(data).__name__}, but bytes are needed; for a path see read_cvq."
        )
    check_size(len(data))
    stream = io.BytesIO(data)
    reader = CvqReader(stream, codec, force=force, budget=budget, longest_s=longest_s, salvage=salvage)
    packet = _packet(reader, len(data))
    rest = len(data) - stream.tell()
    if rest and not salvage:
        raise BitstreamError(f"it has {rest} bytes more than its end record. Read one file at a time.")
    return packet


def write_cvq(
    path: str | os.PathLike[str],
    codec: AudioCodec,
    codes: Any,  # Any: array, tensor or lists
    num_samples: int,
    entropy: Entropy = "auto",
    *,
    channels: int | None = None,
    sample_rate: int | None = None,
    silent: Any = None,  # Any: array, tensor or lists
    chunk_s: float | None = None,
) -> int:
    """Write a `.cvq` file atomically and return its size in bytes. For the arguments see `pack`."""
    data = pack(
        codec, codes, num_samples, entropy, channels=channels, sample_rate=sample_rate, silent=silent,
        chunk_s=chunk_s,
    )  # fmt: skip
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
    return len(data)


def read_cvq(
    path: str | os.PathLike[str],
    codec: AudioCodec | None = None,
    *,
    force: bool = False,
    budget: int | None = None,
    longest_s: float | None = None,
    salvage: bool = False,
) -> Packet:
    """Read a `.cvq` file. For arguments and errors see `unpack`; errors include the path."""
    path = Path(path)
    data = read_bounded(path, MAX_FILE_BYTES, error=BitstreamError, advice="Give the path of a .cvq file.")
    try:
        return unpack(data, codec, force=force, budget=budget, longest_s=longest_s, salvage=salvage)
    except BitstreamError as error:
        raise BitstreamError(f"{path}: {error}") from error


def _one_chunk_s(codec: Any, codes: Any) -> float:  # Any: checked by the writer
    """Return the duration of the codes in seconds; any number above 0 for codes that are not an array."""
    try:
        return float(max(1, np.shape(codes)[-1]) * codec.hop_length / codec.sample_rate)
    except (AttributeError, IndexError, TypeError, ValueError, ZeroDivisionError):
        return 1.0


def _packet(reader: CvqReader, file_bytes: int) -> Packet:
    """Read all chunks and join them."""
    channels, books = reader.coded_channels, len(reader.codebook_sizes)
    chunks: Iterable[Chunk] = reader
    if (frames := reader.frames) is None:  # the end of the file is missing, or damaged
        chunks = list(reader)
        frames = max([reader.frames or 0, *(chunk.end_frame for chunk in chunks)])
    if channels * books * frames > MAX_CHUNK_CODES + 256 * file_bytes:
        raise BitstreamError(
            f"{frames} frames are too many for a file of {file_bytes} bytes: it is damaged. Read its chunks "
            "with CvqReader."
        )
    shape = channels, books, frames
    codes, silent = np.zeros((channels, books, 0), dtype=np.int64), np.zeros((channels, 0), dtype=bool)
    kinds: Counter[str] = Counter()
    payload_bits = 0
    for chunk in chunks:
        if chunk.codes.shape == shape:  # one chunk has everything
            codes, silent = chunk.codes, chunk.silent
        else:
            if codes.shape != shape:  # after the first chunk is within the budget
                codes, silent = np.zeros(shape, dtype=np.int64), np.zeros((channels, frames), dtype=bool)
            span = slice(chunk.first_frame, chunk.end_frame)
            codes[:, :, span], silent[:, span] = chunk.codes, chunk.silent
        kinds[chunk.kind] += 1
        payload_bits += chunk.payload_bits
    num_samples, original = reader.num_samples, reader.original_num_samples
    if num_samples is None or original is None:  # the end is missing: all frames
        num_samples = frames * reader.hop_length
        original = num_samples * reader.original_sample_rate // reader.sample_rate
    return Packet(
        codes[0] if channels == 1 else codes, num_samples, reader.sample_rate, reader.hop_length,
        reader.codebook_sizes, reader.strides, reader.codebooks_id, reader.weights_id,
        max(kinds, key=lambda kind: kinds[kind], default="packed"), payload_bits, file_bytes,
        silent[0] if channels == 1 else silent, reader.channels, reader.original_sample_rate, original,
        tuple(reader.gaps),
    )  # fmt: skip

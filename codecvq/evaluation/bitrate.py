"""Bit rates of a codec, and statistics of its codebooks.

There are three kinds of bit rate:

- *Nominal*: codes per second times log2 K, summed over the codebooks. This is the rate of fixed-length codes.
  A codebook has one code per block of `stride` frames, and no code in a frame where it is absent.
- *Entropy*: the rate of an ideal coder that knows the code frequencies of the test set but not the order of
  the codes. It is a property of the clips; no file has this rate.
- *Real*: the bytes of `.cvq` files of these clips divided by their duration, for the payload alone and for
  whole files, packed and entropy-coded. Entropy coding uses the code tables of the codec where they are
  shorter than the adaptive models.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from codecvq.code_entropy import entropy_nats
from codecvq.codec.blocks import split_blocks
from codecvq.errors import BitstreamError

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec

FRAMES_AT_ONCE = 10_000


@dataclass(frozen=True)
class CodebookStats:
    """Code statistics of one codebook over the test clips."""

    size: int  # K
    frames: int  # number of codes: one per block of frames, without absent codes
    used: int  # number of distinct codes; at most min(K, frames)
    entropy_bits: float  # per code, of the observed frequencies
    corrected_entropy_bits: float  # with the Miller-Madow correction, at most log2 K
    perplexity: float  # 2 ** entropy_bits: number of equally likely codes with that entropy
    codes_a_frame: float = 1.0  # 1 / stride, times the fraction of blocks with a code


@dataclass(frozen=True)
class FileBytes:
    """Size of one clip as a `.cvq` file."""

    packed_payload_bits: int
    packed_file_bytes: int
    entropy_payload_bits: int
    entropy_file_bytes: int
    entropy_kind: str = ""  # how most chunks are entropy-coded: entropy, digits or learned (with code tables)


@dataclass(frozen=True)
class Bitrate:
    """Bit rates in bit/s: bits of all clips divided by their total duration.

    A real rate is None if no clip was packed into a file.
    """

    nominal_bps: float
    entropy_bps: float  # plug-in estimate, biased low; more so with few frames per codebook entry
    corrected_entropy_bps: float
    packed_payload_bps: float | None
    packed_file_bps: float | None
    entropy_payload_bps: float | None
    entropy_file_bps: float | None
    duration_s: float
    frames: int
    codebooks: tuple[CodebookStats, ...]
    table_share: float | None = None  # of the entropy-coded files: those of kind learned, with code tables


class CodeCounter:
    """Counts the codes of each codebook. Supports any K, because it stores only codes that occur.

    `strides` are the frames per code of each codebook, by default 1.
    """

    def __init__(self, codebook_sizes: Sequence[int], strides: Sequence[int] | None = None) -> None:
        self.sizes = tuple(codebook_sizes)
        self.strides = (1,) * len(self.sizes) if strides is None else tuple(strides)
        self.counts: list[Counter[int]] = [Counter() for _ in self.sizes]
        self.blocks = [0] * len(self.sizes)
        self.frames = 0

    def add(self, codes: np.ndarray) -> None:
        """Add the codes `[N, T]` of one clip; -1 is an absent code."""
        self.frames += codes.shape[1]
        for n, row in enumerate(split_blocks(codes, self.strides)):
            self.blocks[n] += len(row)
            values, counts = np.unique(row[row >= 0], return_counts=True)
            self.counts[n].update(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    def stats(self) -> tuple[CodebookStats, ...]:
        """Return the statistics of each codebook over all added clips."""
        stats = [
            _codebook_stats(size, list(counts.values()))
            for size, counts in zip(self.sizes, self.counts, strict=True)
        ]
        return tuple(
            replace(book, codes_a_frame=(book.frames / blocks if blocks else 1.0) / stride)
            for book, blocks, stride in zip(stats, self.blocks, self.strides, strict=True)
        )


def _codebook_stats(size: int, counts: list[int]) -> CodebookStats:
    """Return statistics from counts; the Miller-Madow correction adds (m - 1) / 2n nats for m codes in n."""
    frames = sum(counts)
    entropy = float(entropy_nats(np.array(sorted(counts), dtype=np.int64))) / math.log(2)
    correction = (len(counts) - 1) / (2 * frames) / math.log(2) if frames else 0.0
    return CodebookStats(
        size, frames, len(counts), entropy, min(entropy + correction, math.log2(size)), 2**entropy
    )


def file_bytes(codec: AudioCodec, codes: np.ndarray, num_samples: int) -> FileBytes:
    """Return the size of one clip as a `.cvq` file, packed and entropy-coded. Shape of codes: `[N, T]`.

    Raises BitstreamError if the file does not decode to the same codes.
    """
    packed, coded = (_coded(codec, codes, num_samples, entropy) for entropy in (False, True))
    return FileBytes(packed.payload_bits, packed.file_bytes, coded.payload_bits, coded.file_bytes, coded.kind)


class _Coded(NamedTuple):
    payload_bits: int
    file_bytes: int
    kind: str  # of most chunks


def _coded(codec: AudioCodec, codes: np.ndarray, num_samples: int, entropy: bool) -> _Coded:
    """Return the size of a `.cvq` file with as few chunks as possible, one for a short clip."""
    from codecvq.bitstream import CvqReader, CvqWriter

    frames, file = codes.shape[1], io.BytesIO()
    duration_s = max(1, frames) * codec.hop_length / codec.sample_rate
    writer = CvqWriter(file, codec, entropy=entropy, chunk_s=duration_s)
    for start in range(0, max(1, frames), FRAMES_AT_ONCE):
        writer.write(codes[:, start : start + FRAMES_AT_ONCE])
    file_bytes = writer.close(num_samples)
    file.seek(0)
    bits, kinds, at = 0, Counter[str](), 0
    for chunk in CvqReader(file, codec):
        end = chunk.first_frame + chunk.codes.shape[2]
        if chunk.first_frame != at or not np.array_equal(chunk.codes[0], codes[:, at:end]):
            break
        bits, at = bits + chunk.payload_bits, end
        kinds[chunk.kind] += 1
    if at != frames:  # the rate is valid only if the file decodes to the codes
        raise BitstreamError("a .cvq file decoded to other codes than were written. Please report this.")
    return _Coded(bits, file_bytes, kinds.most_common(1)[0][0] if kinds else "packed")


def rates(
    counter: CodeCounter,
    frame_rate_hz: float,
    duration_s: float,
    files: Sequence[FileBytes] = (),
    files_duration_s: float = 0.0,
) -> Bitrate:
    """Return the bit rates of clips with a total duration of `duration_s`.

    `files` are the sizes of the clips that were packed, with a total duration of `files_duration_s`.
    """

    stats = counter.stats()

    def rate(bits: Callable[[CodebookStats], float]) -> float:
        return frame_rate_hz * sum(book.codes_a_frame * bits(book) for book in stats)

    def real(bits: int) -> float | None:
        return bits / files_duration_s if files_duration_s else None

    return Bitrate(
        nominal_bps=rate(lambda book: math.log2(book.size)),
        entropy_bps=rate(lambda book: book.entropy_bits),
        corrected_entropy_bps=rate(lambda book: book.corrected_entropy_bits),
        packed_payload_bps=real(sum(f.packed_payload_bits for f in files)),
        packed_file_bps=real(8 * sum(f.packed_file_bytes for f in files)),
        entropy_payload_bps=real(sum(f.entropy_payload_bits for f in files)),
        entropy_file_bps=real(8 * sum(f.entropy_file_bytes for f in files)),
        duration_s=duration_s,
        frames=counter.frames,
        codebooks=stats,
        table_share=sum(f.entropy_kind == "learned" for f in files) / len(files) if files else None,
    )

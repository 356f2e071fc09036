"""The bit rate of a codec, in three honest senses, and how it uses its codebooks.

*Nominal* is codes a second times log2 K, summed over the codebooks: what fixed-length codes cost. A codebook
has one code for a block of `stride` frames, and none where it is absent from a frame. *Entropy* is what an
ideal coder that knows the test set's code frequencies, and nothing of their order, would spend; it is a
property of the clips, not a rate that a file has. *Real* is the bytes that `.cvq` files of these clips hold,
payload alone and whole files with headers, over their duration.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from codecvq.code_entropy import entropy_nats
from codecvq.codec.blocks import split_blocks
from codecvq.errors import BitstreamError

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec


@dataclass(frozen=True)
class CodebookStats:
    """How the test clips use one codebook."""

    size: int  # K
    frames: int  # codes counted: one for each block of frames, none where it is absent
    used: int  # different codes seen; cannot exceed min(K, frames)
    entropy_bits: float  # of the observed frequencies, a code
    corrected_entropy_bits: float  # the same with the Miller-Madow correction, at most log2 K
    perplexity: float  # 2 ** entropy_bits: the number of equally likely codes with that entropy
    codes_a_frame: float = 1.0  # 1 / stride, times the share of blocks that have a code


@dataclass(frozen=True)
class FileBytes:
    """What one clip costs as a `.cvq` file."""

    packed_payload_bits: int
    packed_file_bytes: int
    entropy_payload_bits: int
    entropy_file_bytes: int


@dataclass(frozen=True)
class Bitrate:
    """Rates in bit/s over all clips together: all bits over the whole duration.

    A real rate is None where no clip was made into a file.
    """

    nominal_bps: float
    entropy_bps: float  # plug-in estimate: biased low, the more so the fewer frames a codebook entry has
    corrected_entropy_bps: float
    packed_payload_bps: float | None
    packed_file_bps: float | None
    entropy_payload_bps: float | None
    entropy_file_bps: float | None
    duration_s: float
    frames: int
    codebooks: tuple[CodebookStats, ...]


class CodeCounter:
    """Counts of every code of every codebook. Takes any K, because it keeps only the codes that occur.

    `strides` are the frames that a code of each codebook stands for; without them all are 1.
    """

    def __init__(self, codebook_sizes: Sequence[int], strides: Sequence[int] | None = None) -> None:
        self.sizes = tuple(codebook_sizes)
        self.strides = (1,) * len(self.sizes) if strides is None else tuple(strides)
        self.counts: list[Counter[int]] = [Counter() for _ in self.sizes]
        self.blocks = [0] * len(self.sizes)
        self.frames = 0

    def add(self, codes: np.ndarray) -> None:
        """Count the codes of one clip. Shapes: codes `[N, T]`, -1 where a code is absent."""
        self.frames += codes.shape[1]
        for n, row in enumerate(split_blocks(codes, self.strides)):
            self.blocks[n] += len(row)
            values, counts = np.unique(row[row >= 0], return_counts=True)
            self.counts[n].update(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    def stats(self) -> tuple[CodebookStats, ...]:
        """The use of each codebook by all clips added."""
        stats = [
            _codebook_stats(size, list(counts.values()))
            for size, counts in zip(self.sizes, self.counts, strict=True)
        ]
        return tuple(
            replace(book, codes_a_frame=(book.frames / blocks if blocks else 1.0) / stride)
            for book, blocks, stride in zip(stats, self.blocks, self.strides, strict=True)
        )


def _codebook_stats(size: int, counts: list[int]) -> CodebookStats:
    """Entropy by frequencies; for Miller and Madow's correction m codes in n frames add (m - 1) / 2n nats."""
    frames = sum(counts)
    entropy = float(entropy_nats(np.array(sorted(counts), dtype=np.int64))) / math.log(2)
    correction = (len(counts) - 1) / (2 * frames) / math.log(2) if frames else 0.0
    return CodebookStats(
        size, frames, len(counts), entropy, min(entropy + correction, math.log2(size)), 2**entropy
    )


def file_bytes(codec: AudioCodec, codes: np.ndarray, num_samples: int) -> FileBytes:
    """The size of one clip as a `.cvq` file, packed and entropy-coded. Shapes: codes `[N, T]`."""
    from codecvq.bitstream import pack, unpack

    packets = []
    for entropy in (False, True):
        packet = unpack(pack(codec, codes, num_samples, entropy=entropy), codec)
        if not np.array_equal(packet.codes, codes):  # a rate counts only if the file gives the codes back
            raise BitstreamError(
                f"a {packet.kind} .cvq file gave other codes back than were written. Please report this."
            )
        packets.append(packet)
    packed, coded = packets
    return FileBytes(packed.payload_bits, packed.file_bytes, coded.payload_bits, coded.file_bytes)


def rates(
    counter: CodeCounter,
    frame_rate_hz: float,
    duration_s: float,
    files: Sequence[FileBytes] = (),
    files_duration_s: float = 0.0,
) -> Bitrate:
    """The bit rates of clips of `duration_s` in all, of which `files` are those made into `.cvq`."""

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
    )

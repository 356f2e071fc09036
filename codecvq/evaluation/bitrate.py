"""The bit rate of a codec, in three honest senses, and how it uses its codebooks.

*Nominal* is frames a second times the sum of log2 K: what fixed-length codes cost. *Entropy* is what an ideal
coder that knows the test set's code frequencies, and nothing of their order, would spend; it is a property of
the clips, not a rate that a file has. *Real* is the bytes that `.cvq` files of these clips hold, payload
alone and whole files with headers, over their duration.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from codecvq.code_use import entropy_nats
from codecvq.errors import BitstreamError

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec


@dataclass(frozen=True)
class CodebookUse:
    """How the test clips use one codebook."""

    size: int  # K
    frames: int  # codes counted
    used: int  # different codes seen; cannot exceed min(K, frames)
    entropy_bits: float  # of the observed frequencies, a code
    corrected_entropy_bits: float  # the same with the Miller-Madow correction, at most log2 K
    perplexity: float  # 2 ** entropy_bits: the number of equally likely codes with that entropy


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
    codebooks: tuple[CodebookUse, ...]


class CodeCounter:
    """Counts of every code of every codebook. Takes any K, because it keeps only the codes that occur."""

    def __init__(self, codebook_sizes: Sequence[int]) -> None:
        self.sizes = tuple(codebook_sizes)
        self.counts: list[Counter[int]] = [Counter() for _ in self.sizes]

    def add(self, codes: np.ndarray) -> None:
        """Count the codes of one clip. Shapes: codes `[N, T]`."""
        for counter, row in zip(self.counts, codes, strict=True):
            values, counts = np.unique(row, return_counts=True)
            counter.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    def uses(self) -> tuple[CodebookUse, ...]:
        """The use of each codebook by all clips added."""
        return tuple(
            _use(size, list(counts.values())) for size, counts in zip(self.sizes, self.counts, strict=True)
        )


def _use(size: int, counts: list[int]) -> CodebookUse:
    """Entropy by frequencies; for Miller and Madow's correction m codes in n frames add (m - 1) / 2n nats."""
    frames = sum(counts)
    entropy = float(entropy_nats(np.array(sorted(counts), dtype=np.int64))) / math.log(2)
    correction = (len(counts) - 1) / (2 * frames) / math.log(2) if frames else 0.0
    return CodebookUse(
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
    uses: Sequence[CodebookUse],
    frame_rate_hz: float,
    duration_s: float,
    files: Sequence[FileBytes] = (),
    files_duration_s: float = 0.0,
) -> Bitrate:
    """The bit rates of clips of `duration_s` in all, of which `files` are those made into `.cvq`."""

    def real(bits: int) -> float | None:
        return bits / files_duration_s if files_duration_s else None

    return Bitrate(
        nominal_bps=frame_rate_hz * sum(math.log2(use.size) for use in uses),
        entropy_bps=frame_rate_hz * sum(use.entropy_bits for use in uses),
        corrected_entropy_bps=frame_rate_hz * sum(use.corrected_entropy_bits for use in uses),
        packed_payload_bps=real(sum(f.packed_payload_bits for f in files)),
        packed_file_bps=real(8 * sum(f.packed_file_bytes for f in files)),
        entropy_payload_bps=real(sum(f.entropy_payload_bits for f in files)),
        entropy_file_bps=real(8 * sum(f.entropy_file_bytes for f in files)),
        duration_s=duration_s,
        frames=uses[0].frames if uses else 0,
        codebooks=tuple(uses),
    )

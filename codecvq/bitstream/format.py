"""The `.cvq` file: one clip's codes, which codec they are of, and exactly how many samples they stand for.

    magic            4 bytes   b"CVQ" and the version: 1, or 2 for what version 1 has no room for
    kind             1 byte    0 packed, see `packed`; 1 entropy or 2 digits, see `entropy`
                               version 2: 3 learned, see `learned`; + 64: with strides; + 128: with depths
    codebooks hash  16 bytes   of the codec's `codebooks_sha256`: whether the codes can be decoded
    weights hash     4 bytes   of its `weights_sha256`: whether the sound will be the same
    numbers          varints   sample rate, hop, samples, frames, payload bytes
    codebooks        varints   how many runs of equal sizes, and for each run its codebooks and their size
    strides          varints   where there are any but 1: runs, as those of sizes
    depths           varint    where codes are absent: bytes of the payload that say how many each frame has
    payload
    CRC-32           4 bytes   of all before, little-endian

A codebook of stride s has one code for a block of s frames. Files of codecs whose strides are all 1, in which
no code is absent and that need no learned tables are of version 1.

That is 44 bytes around the payload for a second of speech. A varint is little-endian base 128, shortest form
only, at most 63 bits.

What a stranger's file can cost is bounded by its size:

- Lengths, checksum and numbers are checked first, then the codec's identity; the payload is decoded last.
- A file has at least one byte of payload for every 256 codes `[N, T]`, repeated and absent ones included
  (the writer fills up with zeros, which no kind minds). Decoding takes time and memory in proportion to these
  codes and to the sum of their alphabets.
- A reader without a codec, which would decode any codebooks, has a budget. It grows with the file, and speech
  stays far below it; what can exceed it is long digital silence, or a thousand large codebooks.
- Files above 256 MiB are neither written nor read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codecvq.api.code_tables import CodeTables
from codecvq.bitstream.codes import checked_codes
from codecvq.bitstream.cost import decoding_steps, learned_decoding_steps
from codecvq.bitstream.header import MAX_NUMBER, Header, parse_file
from codecvq.bitstream.identity import Identity, check_codec, checked_code_tables, whole_number
from codecvq.bitstream.packed import Codes
from codecvq.bitstream.payload import SPLIT_ABOVE, Entropy, read_payload, write_payload
from codecvq.errors import BitstreamError
from codecvq.files import write_atomically
from codecvq.json_file import read_bounded

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec

MAX_FILE_BYTES = 1 << 28
BUDGET = 1 << 28  # steps for a reader without a codec, some 3 s
BUDGET_PER_BYTE = 1 << 13  # and for each byte of the file, 80 us


@dataclass(frozen=True)
class Packet:
    """What a `.cvq` file holds: codes `[N, T]` int64, and all that is needed to know what they are.

    Codes of a codebook with a stride above 1 are repeated over the frames of their block; absent ones are -1.
    """

    codes: Codes  # [N, T]
    num_samples: int
    sample_rate: int  # Hz
    hop_length: int  # samples a frame
    codebook_sizes: tuple[int, ...]
    strides: tuple[int, ...]  # frames that a code of each codebook stands for
    codebooks_id: str  # the first 32 hexadecimal digits of the codec's codebooks_sha256
    weights_id: str  # the first 8 of its weights_sha256
    kind: str  # packed, entropy, digits or learned
    payload_bits: int  # of the codes alone, and of depths: what a measured bitrate counts
    file_bytes: int  # with header and checksum

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sample_rate

    @property
    def frame_rate(self) -> Fraction:
        """Frames a second."""
        return Fraction(self.sample_rate, self.hop_length)


def pack(codec: AudioCodec, codes: Any, num_samples: int, entropy: Entropy = "auto") -> bytes:
    """The bytes of a `.cvq` file that holds the codes `[N, T]` of one clip (Any: numpy, torch or nested lists
    of integers).

    `codes` may be those of the first N codebooks; where the codec has `variable_depth`, absent ones are -1.
    `entropy`: True codes them under the adaptive model or the codec's own tables, False packs them, "auto"
    takes what is smaller. Raises BitstreamError for codes or lengths that do not fit the codec, and for a
    codec that has what a file cannot hold.
    """
    identity = Identity.from_codec(codec)
    values, layout = checked_codes(codes, identity, codec.variable_depth)
    frames = layout.frames
    num_samples = whole_number(num_samples, "num_samples", 0, MAX_NUMBER)
    needed = -(-num_samples // identity.hop_length)
    if frames < needed:
        raise BitstreamError(
            f"num_samples is {num_samples}, which takes {needed} frames of {identity.hop_length} samples, "
            f"but the codes have {frames}. Give the length of the clip that was encoded."
        )
    tables = checked_code_tables(codec, identity.sizes) if entropy else None
    kind, depth_bytes, payload = write_payload(values, layout, entropy, tables)
    data = Header(
        kind, identity.codebooks_id, identity.weights_id, identity.sample_rate, identity.hop_length,
        num_samples, frames, layout.sizes, layout.strides, depth_bytes,
    ).to_bytes(payload)  # fmt: skip
    if len(data) > MAX_FILE_BYTES:
        raise BitstreamError(
            f"the file would have {len(data):,} bytes, more than the {MAX_FILE_BYTES:,} that are read. Cut "
            "the clip into several files."
        )
    return data


def unpack(
    data: bytes,
    codec: AudioCodec | None = None,
    *,
    force: bool = False,
    budget: int | None = None,
    longest_s: float | None = None,
) -> Packet:
    """What the bytes of a `.cvq` file hold; raises BitstreamError for a damaged or truncated one.

    With `codec`, its codebooks must be those that the file was written with; `force` lets others of the same
    sizes pass. Other weights around the same codebooks (a decoder trained further) give a warning. This is
    compared before the codes are decoded.

    `budget` is the work that decoding may take, in steps of about 10 ns and, at most, an eighth of a byte of
    memory. A file that needs more is refused. The default is 2^28 and 2^13 for each byte of the file without
    `codec`, and no limit with it. A file that stands for more than `longest_s` seconds of audio is refused
    too, before its codes are decoded.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise BitstreamError(
            f"data is a {type(data).__name__}, but bytes are needed; for a path see read_cvq."
        )
    _check_size(len(data))
    data = bytes(data)
    header, payload = parse_file(data)
    if codec is not None:
        check_codec(header, codec, force)
    seconds = header.frames * header.hop_length / header.sample_rate
    if longest_s is not None and seconds > longest_s + header.hop_length / header.sample_rate:
        raise BitstreamError(
            f"it stands for {seconds / 3600:.1f} hours of audio, more than the {longest_s / 3600:g} that are "
            "decoded at once. Encode the recording in parts."
        )
    if budget is None and codec is None:
        budget = BUDGET + BUDGET_PER_BYTE * len(data)
    tables = (
        None
        if codec is None or header.kind != "learned"
        else checked_code_tables(codec, codec.codebook_sizes)
    )
    _check_budget(header, tables, budget)
    codes, bits = read_payload(header, payload, tables)
    return Packet(
        codes, header.num_samples, header.sample_rate, header.hop_length, header.sizes, header.strides,
        header.codebooks_id, header.weights_id, header.kind, bits, len(data),
    )  # fmt: skip


def write_cvq(
    path: str | os.PathLike[str], codec: AudioCodec, codes: Any, num_samples: int, entropy: Entropy = "auto"
) -> int:
    """Bytes written to the file, which appears whole or not at all; see `pack`."""
    data = pack(codec, codes, num_samples, entropy)
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
) -> Packet:
    """What a `.cvq` file holds; see `unpack`. Errors name the file."""
    path = Path(path)
    data = read_bounded(path, MAX_FILE_BYTES, error=BitstreamError, advice="Give the path of a .cvq file.")
    try:
        return unpack(data, codec, force=force, budget=budget, longest_s=longest_s)
    except BitstreamError as error:
        raise BitstreamError(f"{path}: {error}") from error


def _check_budget(header: Header, tables: CodeTables | None, budget: int | None) -> None:
    """Raise BitstreamError where decoding takes more than the budget."""
    with_depths = header.depth_bytes is not None
    if tables is None:
        needed = decoding_steps(header.layout, SPLIT_ABOVE.get(header.kind), with_depths)
    else:
        needed = learned_decoding_steps(header.layout, tables, with_depths)
    if budget is not None and needed > budget:
        raise BitstreamError(
            f"its {len(header.sizes)} x {header.frames} codes take {needed:,} steps to decode (about "
            f"{needed / 1e8:.3g} s), more than the budget of {budget:,}. Read it with the codec that wrote "
            "it, or give a larger budget."
        )


def _check_size(length: int) -> None:
    if length > MAX_FILE_BYTES:
        raise BitstreamError(
            f"it has {length:,} bytes, more than the {MAX_FILE_BYTES:,} that are read. Take another copy."
        )

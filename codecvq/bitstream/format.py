"""Reading and writing of `.cvq` files: codes of one clip, identity of its codec, and exact length.

Layout of a file:

    magic            4 bytes   b"CVQ" and the version, 1 or 2
    kind             1 byte    0 packed, see `packed`; 1 entropy or 2 digits, see `entropy`
                               version 2: 3 learned, see `learned`; + 64: with strides; + 128: with depths
    codebooks hash  16 bytes   start of the codec's `codebooks_sha256`; decides whether a codec can decode it
    weights hash     4 bytes   start of its `weights_sha256`; decides whether the audio will be identical
    numbers          varints   sample rate, hop length, samples, frames, payload bytes
    codebooks        varints   number of runs of equal sizes; for each run its number of codebooks and size
    strides          varints   only if a stride is not 1: runs in the same form as the sizes
    depths           varint    only if codes are absent: payload bytes of the depths, see `payload`
    payload
    CRC-32           4 bytes   of everything before it, little-endian

A codebook of stride s has one code per block of s frames. A file has version 1 if all strides are 1, no code
is absent and the kind is not `learned`; otherwise it has version 2.

Header and checksum take 44 bytes for one second of speech. A varint is little-endian base 128, in its
shortest form only, with at most 63 bits.

The cost of reading an untrusted file is bounded by its size:

- Lengths, checksum and numbers are checked first, then the codec identity. The payload is decoded last.
- A file has at least one byte of payload per 256 codes `[N, T]`, counting repeated and absent codes. The
  writer pads the payload with zeros, which every kind ignores. Time and memory of decoding are proportional
  to the number of codes and to the sum of the alphabet sizes.
- A reader without a codec accepts any codebooks, so it has a budget that grows with the file size. Speech
  stays far below it. Long digital silence or a thousand large codebooks can exceed it.
- Files larger than 256 MiB are neither written nor read.
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
BUDGET = 1 << 28  # steps for a reader without a codec, about 3 s
BUDGET_PER_BYTE = 1 << 13  # additional steps per byte of the file, about 80 us


@dataclass(frozen=True)
class Packet:
    """The content of a `.cvq` file: codes `[N, T]` int64 and the header fields that describe them.

    Codes of a codebook with a stride above 1 repeat over the frames of their block. Absent codes are -1.
    """

    codes: Codes  # [N, T]
    num_samples: int
    sample_rate: int  # Hz
    hop_length: int  # samples per frame
    codebook_sizes: tuple[int, ...]
    strides: tuple[int, ...]  # frames per code, of each codebook
    codebooks_id: str  # the first 32 hexadecimal digits of the codec's codebooks_sha256
    weights_id: str  # the first 8 of its weights_sha256
    kind: str  # packed, entropy, digits or learned
    payload_bits: int  # codes and depths without padding: what a measured bit rate counts
    file_bytes: int  # including header and checksum

    @property
    def duration_s(self) -> float:
        """Duration in seconds."""
        return self.num_samples / self.sample_rate

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second."""
        return Fraction(self.sample_rate, self.hop_length)


def pack(codec: AudioCodec, codes: Any, num_samples: int, entropy: Entropy = "auto") -> bytes:
    """Return the bytes of a `.cvq` file with the codes `[N, T]` of one clip.

    `codes` is a numpy array, a torch tensor or nested lists of integers, for the first N codebooks of the
    codec. With a codec that has `variable_depth`, absent codes are -1. `entropy=True` uses the adaptive model
    or the codec's own tables, `False` packs the codes, and `"auto"` takes the shortest result.

    Raises BitstreamError if codes or length do not match the codec, or if the format cannot store a property
    of the codec.
    """
    identity = Identity.from_codec(codec)
    values, layout = checked_codes(codes, identity, codec.variable_depth)
    frames = layout.frames
    num_samples = whole_number(num_samples, "num_samples", 0, MAX_NUMBER)
    needed = -(-num_samples // identity.hop_length)
    if frames < needed:
        raise BitstreamError(
            f"num_samples is {num_samples}, which needs {needed} frames of {identity.hop_length} samples, "
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
) -> Packet:
    """Decode the bytes of a `.cvq` file.

    With `codec`, its codebooks must be those that the file was written with; `force` also accepts other
    codebooks of the same sizes, except for the kind `learned`. The same codebooks with other weights (a
    decoder that was trained further) issue a UserWarning. These checks run before the codes are decoded.

    `budget` limits the work of decoding. It is counted in steps of about 10 ns, each with at most 1/8 byte of
    memory. The default is 2^28 steps plus 2^13 per byte of the file without `codec`, and no limit with
    `codec`. `longest_s` limits the duration of the audio in seconds.

    Raises BitstreamError for a damaged or truncated file, for another codec, and for a file above one of the
    limits.
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
            f"it contains {seconds / 3600:.1f} hours of audio, but at most {longest_s / 3600:g} are decoded "
            "at once. Encode the recording in parts."
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
    """Write a `.cvq` file atomically and return its size in bytes. For the arguments see `pack`."""
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
    """Read a `.cvq` file. For arguments and errors see `unpack`; errors include the path."""
    path = Path(path)
    data = read_bounded(path, MAX_FILE_BYTES, error=BitstreamError, advice="Give the path of a .cvq file.")
    try:
        return unpack(data, codec, force=force, budget=budget, longest_s=longest_s)
    except BitstreamError as error:
        raise BitstreamError(f"{path}: {error}") from error


def _check_budget(header: Header, tables: CodeTables | None, budget: int | None) -> None:
    """Raise BitstreamError if decoding needs more steps than the budget."""
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
            f"it has {length:,} bytes, more than the limit of {MAX_FILE_BYTES:,}. Use another copy."
        )

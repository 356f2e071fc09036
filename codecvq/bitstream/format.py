"""The `.cvq` file: one clip's codes, which codec they are of, and exactly how many samples they stand for.

    magic            4 bytes   b"CVQ" and the version, 1
    kind             1 byte    0 packed, see `packed`; 1 entropy or 2 digits, see `entropy`
    codebooks hash  16 bytes   of the codec's `codebooks_sha256`: whether the codes can be decoded
    weights hash     4 bytes   of its `weights_sha256`: whether the sound will be the same
    numbers          varints   sample rate, hop, samples, frames, payload bytes
    codebooks        varints   how many runs of equal sizes, and for each run its codebooks and their size
    payload
    CRC-32           4 bytes   of all before, little-endian

That is 44 bytes around the payload for a second of speech. A varint is little-endian base 128, shortest form
only, at most 63 bits.

What a stranger's file can cost is bounded by its size:

- Lengths, checksum and numbers are checked first, then the codec's identity; the payload is decoded last.
- A file has at least one byte of payload for every 256 codes (the writer fills up with zeros, which no kind
  minds). Decoding takes time and memory in proportion to the codes and to the sum of their alphabets.
- A reader without a codec, which would decode any codebooks, has a budget. It grows with the file, and speech
  stays far below it; what can exceed it is long digital silence, or a thousand large codebooks.
- Files above 256 MiB are neither written nor read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from codecvq.bitstream.entropy import entropy_decode, entropy_encode, most_bytes
from codecvq.bitstream.header import MAX_NUMBER, Header, malformed, split
from codecvq.bitstream.identity import Identity, check_codec, whole_number
from codecvq.bitstream.model import FOLLOWED_ALPHABET, LARGEST_ALPHABET, planes
from codecvq.bitstream.packed import Codes, pack_codes, packed_bits, unpack_codes
from codecvq.bitstream.work import steps
from codecvq.errors import BitstreamError
from codecvq.files import write_atomically
from codecvq.json_file import read_bounded
from codecvq.limits import MAX_CODEBOOKS

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec

WHOLE = {"entropy": LARGEST_ALPHABET, "digits": FOLLOWED_ALPHABET}  # largest codebook coded as one digit
MOST_FILE_BYTES = 1 << 28
BUDGET = 1 << 28  # steps for a reader without a codec, some 3 s
BUDGET_OF_A_BYTE = 1 << 13  # and for each byte of the file, 80 us

Entropy = Literal["auto"] | bool


@dataclass(frozen=True)
class Packet:
    """What a `.cvq` file holds: codes `[N, T]` int64, and all that is needed to know what they are."""

    codes: Codes  # [N, T]
    num_samples: int
    sample_rate: int  # Hz
    hop_length: int  # samples a frame
    codebook_sizes: tuple[int, ...]
    codebooks_id: str  # the first 32 hexadecimal digits of the codec's codebooks_sha256
    weights_id: str  # the first 8 of its weights_sha256
    kind: str  # packed, entropy or digits
    payload_bits: int  # of the codes alone: what a measured bitrate counts
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

    `codes` may be those of the first N codebooks. `entropy`: True codes them under the adaptive model, False
    packs them, "auto" takes what is smaller. Raises BitstreamError for codes or lengths that do not fit the
    codec, and for a codec that has what a file cannot hold.
    """
    identity = Identity.of(codec)
    values = _checked_codes(codes, identity.sizes)
    sizes, frames = identity.sizes[: len(values)], values.shape[1]
    num_samples = whole_number(num_samples, "num_samples", 0, MAX_NUMBER)
    needed = -(-num_samples // identity.hop_length)
    if frames < needed:
        raise BitstreamError(
            f"num_samples is {num_samples}, which takes {needed} frames of {identity.hop_length} samples, "
            f"but the codes have {frames}. Give the length of the clip that was encoded."
        )
    kind, payload = _payload(values, sizes, entropy)
    data = Header(
        kind, identity.codebooks_id, identity.weights_id,
        identity.sample_rate, identity.hop_length, num_samples, frames, sizes,
    ).around(payload)  # fmt: skip
    if len(data) > MOST_FILE_BYTES:
        raise BitstreamError(
            f"the file would have {len(data):,} bytes, more than the {MOST_FILE_BYTES:,} that are read. Cut "
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
    header, payload = split(data)
    if codec is not None:
        check_codec(header, codec, force)
    seconds = header.frames * header.hop_length / header.sample_rate
    if longest_s is not None and seconds > longest_s + header.hop_length / header.sample_rate:
        raise BitstreamError(
            f"it stands for {seconds / 3600:.1f} hours of audio, more than the {longest_s / 3600:g} that are "
            "decoded at once. Encode the recording in parts."
        )
    if budget is None and codec is None:
        budget = BUDGET + BUDGET_OF_A_BYTE * len(data)
    needed = steps(header.sizes, header.frames, WHOLE.get(header.kind))
    if budget is not None and needed > budget:
        raise BitstreamError(
            f"its {len(header.sizes)} x {header.frames} codes take {needed:,} steps to decode (about "
            f"{needed / 1e8:.3g} s), more than the budget of {budget:,}. Read it with the codec that wrote "
            "it, or give a larger budget."
        )
    codes, bits = _decoded(header, payload)
    return Packet(
        codes, header.num_samples, header.sample_rate, header.hop_length, header.sizes,
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
    data = read_bounded(path, MOST_FILE_BYTES, error=BitstreamError, advice="Give the path of a .cvq file.")
    try:
        return unpack(data, codec, force=force, budget=budget, longest_s=longest_s)
    except BitstreamError as error:
        raise BitstreamError(f"{path}: {error}") from error


def _payload(values: Codes, sizes: tuple[int, ...], entropy: Entropy) -> tuple[str, bytes]:
    if not (isinstance(entropy, bool) or (isinstance(entropy, str) and entropy == "auto")):
        raise BitstreamError(f"entropy is {entropy!r}, but True, False or 'auto' is needed.")
    found = {"packed": pack_codes(values, sizes)} if entropy is not True else {}
    if entropy:
        found["entropy"] = entropy_encode(values, sizes, WHOLE["entropy"])
        if planes(sizes, WHOLE["digits"]) != planes(sizes, WHOLE["entropy"]):
            found["digits"] = entropy_encode(values, sizes, WHOLE["digits"])
    kind = min(found, key=lambda kind: len(found[kind]))  # of equals the simplest
    return kind, found[kind]


def _decoded(header: Header, payload: bytes) -> tuple[Codes, int]:
    """The codes of a file, and how many bits they take in it."""
    sizes, frames = header.sizes, header.frames
    if header.kind in WHOLE:
        whole = WHOLE[header.kind]
        most = max(header.least_payload, most_bytes(sizes, frames, whole))
        if len(payload) > most:
            raise malformed(f"{len(payload)} bytes of payload for codes of at most {most}")
        return entropy_decode(payload, sizes, frames, whole), 8 * len(payload)
    bits = packed_bits(sizes, frames)
    if len(payload) != max(-(-bits // 8), header.least_payload):
        raise malformed(f"{len(payload)} bytes of payload for {bits} bits")
    return unpack_codes(payload, sizes, frames), bits


def _check_size(length: int) -> None:
    if length > MOST_FILE_BYTES:
        raise BitstreamError(
            f"it has {length:,} bytes, more than the {MOST_FILE_BYTES:,} that are read. Take another copy."
        )


def _checked_codes(codes: Any, sizes: tuple[int, ...]) -> Codes:  # Any: see `pack`
    try:
        values = np.asarray(codes.detach().cpu() if hasattr(codes, "detach") else codes)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, types that numpy does not have
        raise BitstreamError(
            f"codes cannot be read ({error}). Give integers [N, T] of one clip: an array, a tensor or lists."
        ) from error
    most = min(len(sizes), MAX_CODEBOOKS)
    if values.ndim != 2 or not 0 < len(values) <= most:
        raise BitstreamError(
            f"codes have shape {list(values.shape)}, but one clip's [N, T] with N from 1 to {most} "
            "is needed. A batch [B, N, T] is packed clip by clip."
        )
    if values.dtype.kind not in "iu" and values.size:  # an empty list has no type
        raise BitstreamError(f"codes are {values.dtype}, but integers are needed.")
    values = values.astype(np.int64)  # a uint64 beyond it turns negative, and is refused as such
    limits = np.array(sizes[: len(values)], dtype=np.int64)[:, None]
    outside = np.argwhere((values < 0) | (values >= limits))
    if len(outside):
        book, frame = outside[0].tolist()
        raise BitstreamError(
            f"code {values[book, frame]} of codebook {book} at frame {frame} is not in 0..{sizes[book] - 1}. "
            "Give codes of this codec, without a language model's offsets."
        )
    return values

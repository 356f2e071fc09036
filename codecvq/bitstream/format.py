"""The `.cvq` file: one clip's codes, which codec they are of, and exactly how many samples they stand for.

    magic            4 bytes   b"CVQ" and the version, 1
    kind             1 byte    0 packed, 1 entropy, 2 digits, see `coding`
    codebooks hash  16 bytes   of the codec's `codebooks_sha256`: whether the codes can be decoded
    weights hash     4 bytes   of its `weights_sha256`: whether the sound will be the same
    numbers          varints   sample rate, hop, samples, frames, payload bytes
    codebooks        varints   how many runs of equal sizes, and for each run its codebooks and their size
    payload
    CRC-32           4 bytes   of all before, little-endian

That is 44 bytes around the payload for a second of speech. A varint is little-endian base 128, shortest form
only, at most 63 bits. Each length is checked against the bytes that are there before anything is allocated;
and as a file holds at least one byte of payload for every 256 codes (the writer fills up with zeros, which
neither kind minds), what it can make a reader allocate is bounded by its own size.
"""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from codecvq.bitstream import coding
from codecvq.bitstream.coding import Codes
from codecvq.errors import BitstreamError
from codecvq.files import write_atomically
from codecvq.identity import same_codebooks, same_weights
from codecvq.limits import MAX_CODEBOOK_SIZE, MAX_CODEBOOKS

if TYPE_CHECKING:
    from codecvq.codec import Codec

MAGIC = b"CVQ\x01"
KINDS = ("packed", "entropy", "digits")
WHOLE = {
    "entropy": coding.LARGEST_ALPHABET,
    "digits": coding.FOLLOWED_ALPHABET,
}  # entries of a codebook coded as one digit
CODEBOOKS_ID_BYTES, WEIGHTS_ID_BYTES, CRC_BYTES = 16, 4, 4
FIXED_BYTES = len(MAGIC) + 1 + CODEBOOKS_ID_BYTES + WEIGHTS_ID_BYTES
CODES_PER_BYTE = 256  # at most, so that a few bytes cannot claim a day of silence

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
    kind: str  # one of KINDS
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


def pack(codec: Codec, codes: Any, num_samples: int, entropy: Entropy = "auto") -> bytes:
    """The bytes of a `.cvq` file that holds the codes `[N, T]` of one clip (Any: numpy, torch or nested lists
    of integers).

    `codes` may be those of the first N codebooks. `entropy`: True codes them under the adaptive model, False
    packs them, "auto" takes what is smaller.
    """
    sizes = tuple(codec.codebook_sizes)
    values = _checked_codes(codes, sizes)
    sizes = sizes[: len(values)]
    frames, needed = values.shape[1], -(-num_samples // codec.hop_length)
    if num_samples < 0 or frames < needed:
        raise BitstreamError(
            f"num_samples is {num_samples}, which takes {needed} frames of {codec.hop_length} samples, "
            f"but the codes have {frames}. Give the length of the clip that was encoded."
        )
    kind, payload = _payload(values, sizes, entropy)
    payload += bytes(max(0, _least_payload(values.size) - len(payload)))
    fields = [codec.sample_rate, codec.hop_length, num_samples, frames, len(payload), *_runs(sizes)]
    head = b"".join((
        MAGIC, bytes([KINDS.index(kind)]),
        bytes.fromhex(codec.codebooks_sha256)[:CODEBOOKS_ID_BYTES],
        bytes.fromhex(codec.weights_sha256)[:WEIGHTS_ID_BYTES],
        *map(_varint, fields),
    ))  # fmt: skip
    return head + payload + zlib.crc32(head + payload).to_bytes(CRC_BYTES, "little")


def unpack(data: bytes, codec: Codec | None = None, *, force: bool = False) -> Packet:
    """What the bytes of a `.cvq` file hold; raises BitstreamError for a damaged or truncated one.

    With `codec`, its codebooks must be those that the file was written with; `force` lets others of the same
    sizes pass. Other weights around the same codebooks (a decoder trained further) give a warning.
    """
    header = _Header(data)
    packet = header.packet()
    if codec is not None:
        _check_codec(packet, codec, force)
    return packet


def write_cvq(
    path: str | os.PathLike[str], codec: Codec, codes: Any, num_samples: int, entropy: Entropy = "auto"
) -> int:
    """Bytes written to the file, which appears whole or not at all; see `pack`."""
    data = pack(codec, codes, num_samples, entropy)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
    return len(data)


def read_cvq(path: str | os.PathLike[str], codec: Codec | None = None, *, force: bool = False) -> Packet:
    """What a `.cvq` file holds; see `unpack`. Errors name the file."""
    path = Path(path)
    try:
        return unpack(path.read_bytes(), codec, force=force)
    except OSError as error:
        raise BitstreamError(
            f"{path} cannot be read: {error.strerror}. Give the path of a .cvq file."
        ) from error
    except BitstreamError as error:
        raise BitstreamError(f"{path}: {error}") from error


class _Header:
    """A reader that goes through the header, checking each field as it comes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        if not data.startswith(MAGIC[:3]):
            raise BitstreamError(
                f"it begins with {bytes(data[:4])!r}, not with {MAGIC[:3]!r}: not a .cvq file."
            )
        if data[3:4] != MAGIC[3:] and len(data) > 3:
            raise BitstreamError(
                f"it is of version {data[3]}, and this codecvq reads version {MAGIC[3]}. Install a newer one."
            )
        if len(data) < FIXED_BYTES:
            raise _truncated(len(data), "its header")
        self.kind = data[4]
        self.codebooks_id, self.weights_id = data[5:21].hex(), data[21:FIXED_BYTES].hex()
        self.at = FIXED_BYTES
        self.sample_rate, self.hop_length, self.num_samples, self.frames, self.payload_bytes = (
            self._varint() for _ in range(5)
        )
        self.sizes = self._sizes()

    def packet(self) -> Packet:
        """All that the file holds, after its lengths and its checksum have been found right."""
        data, end = self.data, self.at + self.payload_bytes
        if len(data) != end + CRC_BYTES:
            if len(data) < end + CRC_BYTES:
                raise _truncated(len(data), f"{end + CRC_BYTES}")
            raise BitstreamError(
                f"it has {len(data) - end - CRC_BYTES} bytes more than its header says. Read one file at a "
                "time."
            )
        if zlib.crc32(data[:end]) != int.from_bytes(data[end:], "little"):
            raise BitstreamError(
                "its checksum does not fit: the file is damaged. Take another copy, or encode the audio "
                "again."
            )
        self._check_fields()
        payload = data[self.at : end]
        kind = KINDS[self.kind]
        if kind in WHOLE:
            codes, bits = (
                coding.entropy_decode(payload, self.sizes, self.frames, WHOLE[kind]),
                8 * len(payload),
            )
        else:
            bits = coding.packed_bits(self.sizes, self.frames)
            if len(payload) != max(-(-bits // 8), _least_payload(len(self.sizes) * self.frames)):
                raise _malformed(f"{len(payload)} bytes of payload for {bits} bits")
            codes = coding.unpack_codes(payload, self.sizes, self.frames)
        return Packet(
            codes, self.num_samples, self.sample_rate, self.hop_length, self.sizes,
            self.codebooks_id, self.weights_id, kind, bits, len(data),
        )  # fmt: skip

    def _check_fields(self) -> None:
        if self.kind >= len(KINDS):
            raise _malformed(f"payload kind {self.kind}")
        if not (0 < self.sample_rate < 2**32 and 0 < self.hop_length < 2**32):
            raise _malformed(f"sample rate {self.sample_rate} and hop {self.hop_length}")
        if self.num_samples > self.frames * self.hop_length:
            raise _malformed(f"{self.num_samples} samples in {self.frames} frames of {self.hop_length}")
        if self.payload_bytes < _least_payload(len(self.sizes) * self.frames):
            raise _malformed(f"{len(self.sizes)} x {self.frames} codes in {self.payload_bytes} bytes")

    def _sizes(self) -> tuple[int, ...]:
        sizes: list[int] = []
        for _ in range(self._varint()):
            count, size = self._varint(), self._varint()
            if not (0 < count <= MAX_CODEBOOKS - len(sizes) and 0 < size <= MAX_CODEBOOK_SIZE):
                raise _malformed(f"{len(sizes)} + {count} codebooks, of size {size}")
            sizes += [size] * count
        if not sizes:
            raise _malformed("no codebooks")
        return tuple(sizes)

    def _varint(self) -> int:
        value = 0
        for place in range(9):
            if self.at == len(self.data):
                raise _truncated(len(self.data), "its header")
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                if byte == 0 and place > 0:
                    break  # a shorter form exists; every number has one, so equal packets are equal bytes
                return value
        raise _malformed("a number in its header has no end")


def _payload(values: Codes, sizes: tuple[int, ...], entropy: Entropy) -> tuple[str, bytes]:
    if entropy not in ("auto", True, False):
        raise BitstreamError(f"entropy is {entropy!r}, but True, False or 'auto' is needed.")
    found = {"packed": coding.pack_codes(values, sizes)} if entropy is not True else {}
    if entropy:
        found["entropy"] = coding.entropy_encode(values, sizes, WHOLE["entropy"])
        if coding.planes(sizes, WHOLE["digits"]) != coding.planes(sizes, WHOLE["entropy"]):
            found["digits"] = coding.entropy_encode(values, sizes, WHOLE["digits"])
    kind = min(found, key=lambda kind: len(found[kind]))  # of equals the simplest
    return kind, found[kind]


def _checked_codes(codes: Any, sizes: tuple[int, ...]) -> Codes:  # Any: see `pack`
    values = np.asarray(codes.detach().cpu() if hasattr(codes, "detach") else codes)
    if values.ndim != 2 or not 0 < len(values) <= len(sizes):
        raise BitstreamError(
            f"codes have shape {list(values.shape)}, but one clip's [N, T] with N from 1 to {len(sizes)} "
            "is needed. "
            "A batch [B, N, T] is packed clip by clip."
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


def _check_codec(packet: Packet, codec: Codec, force: bool) -> None:
    ours = tuple(codec.codebook_sizes)
    if packet.codebook_sizes != ours[: len(packet.codebook_sizes)]:
        raise BitstreamError(
            f"it has codebooks of {_brief(packet.codebook_sizes)}, but codec {codec.name!r} has "
            f"{_brief(ours)}. "
            "Decode it with the codec that wrote it."
        )
    if not same_codebooks(codec, packet.codebooks_id) and not force:
        raise BitstreamError(
            f"it was written with codebooks {packet.codebooks_id[:12]}, but codec {codec.name!r} has "
            f"{codec.codebooks_sha256[:12]}. Decode it with the codec that wrote it, or force it to hear "
            "what comes."
        )
    if (packet.sample_rate, packet.hop_length) != (codec.sample_rate, codec.hop_length):
        raise BitstreamError(
            f"it has {packet.sample_rate} Hz and {packet.hop_length} samples a frame, but codec "
            f"{codec.name!r} has "
            f"{codec.sample_rate} Hz and {codec.hop_length}. Decode it with the codec that wrote it."
        )
    if not same_weights(codec, packet.weights_id):
        warnings.warn(
            f"the file was written with weights {packet.weights_id}, codec {codec.name!r} has "
            f"{codec.weights_sha256[:8]} around "
            "the same codebooks: it will decode, but not to the same samples.",
            stacklevel=3,
        )


def _least_payload(codes: int) -> int:
    return codes // CODES_PER_BYTE


def _runs(sizes: Sequence[int]) -> list[int]:
    """Number of runs of equal sizes, then length and size of each: 3 bytes for any number of codebooks of
    5.
    """
    runs = [(len(list(group)), size) for size, group in groupby(sizes)]
    return [len(runs), *(number for run in runs for number in run)]


def _brief(sizes: Sequence[int]) -> str:
    return " + ".join(f"{len(list(group))} x {size}" for size, group in groupby(sizes))


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _truncated(have: int, need: str) -> BitstreamError:
    return BitstreamError(f"it ends after {have} bytes of {need}: the file is truncated. Take another copy.")


def _malformed(what: str) -> BitstreamError:
    return BitstreamError(f"its header makes no sense ({what}): the file is damaged. Take another copy.")

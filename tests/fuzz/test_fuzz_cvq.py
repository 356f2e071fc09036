"""Hostile .cvq files with valid checksums give BitstreamError or valid codes, within limits."""

from __future__ import annotations

import io
import os
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from limits import run_limited

sys.path.insert(0, str(Path(__file__).parents[1]))
from forged_cvq import Parts, indexed, parts_of, signed, varint
from small_codecs import StoredCodec

from codecvq.bitstream import CvqReader, Packet, pack, read_cvq, unpack
from codecvq.errors import BitstreamError
from codecvq.quantizer import CodeTables

FAST_CASES = 2000
#: The test of a release runs 200,000 cases, which take ten minutes: CVQ_FUZZ_CASES=200000.
CASES = int(os.environ.get("CVQ_FUZZ_CASES", "20000"))
BUDGET = 1 << 24  # of most readers, so that a case takes little time


class AcceptsEveryFile(StoredCodec):
    """A codec with the same hashes as the other codecs here, so files of one are decoded by another."""

    codebooks_sha256 = property(lambda self: "ab" * 32)
    weights_sha256 = property(lambda self: "cd" * 32)


LEVELS = CodeTables.uniform((1000,) * 3, levels=(8, 5, 5, 5), contexts=("previous", "below"))

CODECS = [
    AcceptsEveryFile((1000,) * 6),
    AcceptsEveryFile((5,) * 12),
    AcceptsEveryFile((1, 2, 3, 4097, 65536, 64000, 1, 7)),
    AcceptsEveryFile((2**62,) * 3 + (4093,)),
    AcceptsEveryFile((625,) * 3),
    AcceptsEveryFile((1,)),
    AcceptsEveryFile((4096,) * 3, strides=(4, 2, 1)),
    AcceptsEveryFile((5, 2**40, 625), strides=(1, 1000, 3), variable_depth=True),
    AcceptsEveryFile((1024,) * 4, variable_depth=True),
    AcceptsEveryFile((1000,) * 3, strides=(2, 1, 1), variable_depth=True, tables=LEVELS),
    AcceptsEveryFile((9,) * 3, tables=CodeTables.uniform((9,) * 3, contexts=("previous", "below"))),
    AcceptsEveryFile((9,) * 3, tables=CodeTables.uniform((9,) * 3, contexts=("previous",), step=0)),
]
HUGE = AcceptsEveryFile((2**62,) * 1023 + (4093,))


def real_files() -> list[tuple[AcceptsEveryFile, bytes]]:
    rng = np.random.default_rng(0)
    files = []
    for codec in CODECS:
        for frames in (0, 1, 30):
            codes = np.array([rng.integers(0, size, frames) for size in codec.codebook_sizes])
            codes[:, frames // 2 :] = 0  # the second half is silence
            for row, stride in zip(codes, codec.strides, strict=False):
                row[:] = row[np.arange(frames) // stride * stride]
            if codec.variable_depth:
                codes[-1, 12:15] = -1  # whole blocks
                codes[:, 24:] = -1 if set(codec.strides) == {1} else codes[:, 24:]
            silent = np.arange(frames) % 16 >= 12
            for chunk_s in (None, 0.2):
                options = {"chunk_s": chunk_s, "silent": silent if chunk_s else None}
                files += [(codec, pack(codec, codes, frames * 320, on, **options)) for on in (True, False)]
            stereo = {"channels": 2, "sample_rate": 44_100, "chunk_s": 0.2}
            files.append((codec, pack(codec, np.stack([codes, codes]), 0, **stereo)))
    return files


FILES = real_files()
PARTS = [parts_of(data) for _, data in FILES]
VERSIONS_1_AND_2 = [
    path.read_bytes() for path in (Path(__file__).parents[1] / "cvq_vectors").glob("v[12]*.cvq")
]


def with_checksum(data: bytes) -> bytes:
    return data + zlib.crc32(data).to_bytes(4, "little")


def number(rng: np.random.Generator) -> int:
    """Small numbers, and numbers near powers of two, up to the limit of a varint."""
    exponent = int(rng.integers(0, 63))
    return int(
        rng.choice(
            [0, 1, 2, 5, 31, 61, 320, 1024, 4093, 16000, 2**exponent, 2**exponent + 1, 2**exponent - 1]
        )
    )


def generated_earlier(rng: np.random.Generator) -> bytes:
    """A file of version 1 or 2 with random numbers and a random payload. Most lengths are valid."""
    payload = rng.bytes(int(rng.choice([0, 1, 4, 8, 30, 200, 1000])))
    payload = bytes(len(payload)) if rng.random() < 0.3 else payload
    runs = [(number(rng), number(rng)) for _ in range(int(rng.integers(1, 5)))]
    if rng.random() < 0.8:
        runs = [(min(max(1, count), 1024 // len(runs)), max(1, size)) for count, size in runs]
    books = sum(count for count, _ in runs)
    frames = number(rng)
    if rng.random() < 0.8:
        frames = int(rng.choice([0, 1, 2, 256 * len(payload) // max(1, books), 8 * len(payload)]))
    length = len(payload) if rng.random() < 0.95 else number(rng)
    fields = [16000, 320, min(number(rng), frames * 320), frames, length, len(runs)]
    fields += [value for run in runs for value in run]
    kind, version = int(rng.integers(0, 4)), int(rng.choice([1, 2]))
    if version == 2 and rng.random() < 0.6:
        kind |= 64
        strides = [(count, max(1, number(rng) % 2**32)) for count, _ in runs]
        fields += [len(strides), *(value for run in strides for value in run)]
    if version == 2 and rng.random() < 0.6:
        kind |= 128
        fields.append(int(rng.integers(0, max(1, len(payload)) + 1)))
    head = b"CVQ" + bytes([version, kind]) + rng.bytes(20)
    return with_checksum(head + b"".join(map(varint, fields)) + payload)


def generated(rng: np.random.Generator) -> bytes:
    """A file of version 3 with random numbers, random bodies and valid checksums."""
    runs = [(min(max(1, number(rng)), 300), max(1, number(rng))) for _ in range(int(rng.integers(1, 4)))]
    flags, books = int(rng.integers(0, 32)), sum(count for count, _ in runs)
    chunk_frames = int(rng.choice([1, 2, 50, 2**21 // books, max(1, number(rng))]))
    fields = [16000, 320, chunk_frames, len(runs), *(value for run in runs for value in run)]
    fields += [1, books, int(rng.choice([2, 50, max(1, number(rng) % 2**32)]))] if flags & 1 else []
    channels = int(rng.choice([1, 2, 3, 255])) if flags & 2 else 1
    fields += [channels, int(rng.choice([1, channels]))] if flags & 2 else []
    fields += [44_100] if flags & 4 else []
    fields += [number(rng)] if flags & 8 else []
    header = b"CVQ\x03" + bytes([flags]) + b"\xab" * 16 + b"\xcd" * 4 + rng.bytes(4 if flags & 16 else 0)
    chunks = []
    for at in range(int(rng.integers(0, 4))):
        has_fields = rng.random() < 0.5
        body = varint(at if rng.random() < 0.9 else number(rng))
        if has_fields:
            bits = int(rng.integers(0, 8))
            body += bytes([bits])
            body += varint(number(rng)) if bits & 1 else b""
            body += b"".join(varint(int(rng.integers(0, 5))) for _ in range(bits.bit_count() * 2))
        payload = int(rng.choice([0, 1, 4, 30, 1000, max(0, books * chunk_frames // 256 - 8) % 100_000]))
        body += bytes(payload) if rng.random() < 0.3 else rng.bytes(payload)
        chunks.append((0xA0 | 8 * has_fields | int(rng.integers(0, 5)), body))
    parts = Parts(header + b"".join(map(varint, fields)), chunks, b"")
    return indexed(parts, len(chunks) * chunk_frames, number(rng) if rng.random() < 0.2 else 0)


def changed(data: bytes, rng: np.random.Generator, other: bytes = b"") -> bytes:
    """Bytes with changed, removed or inserted parts, truncated, or joined to `other`."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, len(out) + 1))
        change = rng.integers(0, 7)
        if change == 0 and at < len(out):
            out[at] ^= 1 << int(rng.integers(0, 8))
        elif change == 1:
            out[at : at + 1] = rng.bytes(int(rng.integers(0, 4)))
        elif change == 2:
            out[at : at + 1] = varint(number(rng))
        elif change == 3:
            del out[at:]
        elif change == 4:
            out[at:] = other[int(rng.integers(0, len(other) + 1)) :]
        elif change == 5:
            out[at : at + int(rng.integers(1, 40))] = b""
        elif at < len(out):
            out[at] = int(rng.choice([0, 1, 127, 128, 255]))
    return bytes(out)


def mutated(rng: np.random.Generator) -> bytes:
    """A real file with changed bytes."""
    return changed(FILES[rng.integers(len(FILES))][1], rng, FILES[rng.integers(len(FILES))][1])


def mutated_and_signed(rng: np.random.Generator) -> bytes:
    """A real file with changed fields, chunks or payloads, and valid lengths and checksums."""
    parts, other = PARTS[rng.integers(len(PARTS))], PARTS[rng.integers(len(PARTS))]
    chunks = list(parts.chunks)
    for _ in range(int(rng.integers(1, 3))):
        at, change = int(rng.integers(0, len(chunks) + 1)), rng.integers(0, 8)
        if change == 0:
            start = int(rng.choice([4, 24]))  # flags, or numbers
            parts = parts._replace(header=parts.header[:start] + changed(parts.header[start:], rng))
        elif change == 1:
            parts = parts._replace(end=changed(parts.end, rng) or b"\xe5")
        elif change == 2 and other.chunks:
            chunks.insert(at, other.chunks[0])
        elif change == 3:
            del chunks[at : at + 1]
        elif at < len(chunks) and change == 4:
            chunks[at] = chunks[at][0] ^ 1 << int(rng.integers(0, 4)), chunks[at][1]
        elif at < len(chunks):
            chunks[at] = chunks[at][0], changed(chunks[at][1], rng)
    return signed(parts._replace(chunks=chunks))


def earlier(rng: np.random.Generator) -> bytes:
    """A file of version 1 or 2 with changed bytes, mostly with a valid checksum."""
    data = changed(VERSIONS_1_AND_2[rng.integers(len(VERSIONS_1_AND_2))][:-4], rng)
    return with_checksum(data) if rng.random() < 0.8 else data


class Pipe:
    """A stream without a position."""

    def __init__(self, data: bytes) -> None:
        self.read = io.BytesIO(data).read


def read(data: bytes, codec: AcceptsEveryFile | None, rng: np.random.Generator) -> bool:
    """Read a file at once, and chunk by chunk. Returns whether it is valid."""
    budget = BUDGET if codec or rng.random() < 0.95 else None  # None: the default, about 3 s
    options = {"force": bool(rng.random() < 0.5), "budget": budget}
    error = packet = None
    try:
        packet = unpack(data, codec, **options, salvage=(salvage := bool(rng.random() < 0.4)))
        check(packet)
    except BitstreamError as refusal:
        error = str(refusal)
        assert "\n" not in error
        assert len(error) < 700
    try:
        reader = CvqReader(
            Pipe(data) if rng.random() < 0.5 else io.BytesIO(data), codec, **options, salvage=salvage
        )
        if rng.random() < 0.3:
            reader.seek(int(rng.integers(0, 60)))
        frames = sum(chunk.codes.shape[2] for chunk in reader)
    except BitstreamError:
        return packet is not None
    # On a pipe, salvage returns chunks before it finds an end record that counts fewer frames.
    assert packet is None or salvage or frames <= packet.codes.shape[-1]
    return packet is not None


def check(packet: Packet) -> None:
    limits = np.array(packet.codebook_sizes)[:, None]
    channels = packet.codes[None] if packet.codes.ndim == 2 else packet.codes
    assert channels.shape[1] == len(packet.codebook_sizes)
    assert packet.num_samples <= channels.shape[2] * packet.hop_length or packet.gaps
    for codes in channels:
        absent = codes < 0
        assert (codes >= -1).all()
        assert (codes < limits).all()
        assert (absent[:-1] <= absent[1:]).all()  # absent codes are the last ones of a frame
        for row, stride in zip(codes, packet.strides, strict=True):
            assert (row == row[np.arange(len(row)) // stride * stride]).all()


def case_of(seed: int) -> tuple[bytes, np.random.Generator]:
    """The file of a seed: half of the files have valid checksums."""
    rng = np.random.default_rng(seed)
    makers = (
        mutated,
        mutated,
        mutated,
        mutated_and_signed,
        mutated_and_signed,
        generated,
        earlier,
        generated_earlier,
    )
    return makers[seed % len(makers)](rng), rng


def case(seed: int) -> None:
    data, rng = case_of(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about other weights
        for codec in (None, CODECS[rng.integers(len(CODECS))]):
            read(data, codec, rng)
        if seed % 50 == 0:
            read(data, HUGE, rng)


def test_mutated_files_are_read_or_raise_an_error_within_limits() -> None:
    assert run_limited(case, FAST_CASES, memory_bytes=512 << 20, seconds=10) == []


@pytest.mark.slow
def test_hostile_files_are_read_or_raise_an_error_within_limits() -> None:
    assert run_limited(case, CASES, memory_bytes=512 << 20, seconds=10) == []


@pytest.mark.slow
def test_hostile_paths_raise_an_error_within_limits(tmp_path) -> None:
    def from_disk(seed: int) -> None:
        rng = np.random.default_rng(seed)
        path = tmp_path / f"{seed}.cvq"
        data = mutated(rng)
        path.write_bytes(data[: len(data) // 2])
        for codec in (None, CODECS[0]):
            with pytest.raises(BitstreamError, match=path.name):
                read_cvq(path, codec)

    assert run_limited(from_disk, 300, memory_bytes=256 << 20) == []


@pytest.mark.parametrize("maker", [mutated_and_signed, generated, earlier], ids=lambda maker: maker.__name__)
def test_many_mutated_files_reach_the_decoding_of_codes(maker) -> None:
    """The fuzzer is useful only if its files pass the checks of the header."""
    read_whole = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        try:
            unpack(maker(rng), budget=BUDGET)
            read_whole += 1
        except BitstreamError:
            pass
    assert read_whole > 5

"""Hostile .cvq files with valid checksums give BitstreamError or valid codes, within limits."""

from __future__ import annotations

import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from limits import run_limited

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_codecs import StoredCodec

from codecvq.bitstream import Packet, pack, read_cvq, unpack
from codecvq.errors import BitstreamError
from codecvq.quantizer import CodeTables

CASES = 6000
BUDGET = 1 << 26  # for readers with a codec, which have no default budget


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
            files += [(codec, pack(codec, codes, frames * 320, entropy)) for entropy in (True, False)]
    return files


FILES = real_files()


def with_checksum(data: bytes) -> bytes:
    return data + zlib.crc32(data).to_bytes(4, "little")


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def number(rng: np.random.Generator) -> int:
    """Small numbers, and numbers near powers of two, up to the limit of a varint."""
    exponent = int(rng.integers(0, 63))
    return int(
        rng.choice(
            [0, 1, 2, 5, 31, 61, 320, 1024, 4093, 16000, 2**exponent, 2**exponent + 1, 2**exponent - 1]
        )
    )


def generated(rng: np.random.Generator) -> bytes:
    """A header of random numbers with a random payload. Most lengths are valid."""
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
    return head + b"".join(map(varint, fields)) + payload


def mutated(rng: np.random.Generator) -> bytes:
    """A real file with changed, removed or inserted bytes, truncated, or joined to another one."""
    data = bytearray(FILES[rng.integers(len(FILES))][1][:-4])
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(0, min(len(data), 60) if rng.random() < 0.7 else len(data)))
        change = rng.integers(0, 6)
        if change == 0:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif change == 1:
            data[at : at + 1] = rng.bytes(int(rng.integers(0, 4)))
        elif change == 2:
            data[at : at + 1] = varint(number(rng))
        elif change == 3:
            del data[max(at, 1) :]
        elif change == 4:
            other = FILES[rng.integers(len(FILES))][1][:-4]
            data[at:] = other[int(rng.integers(0, len(other))) :]
        else:
            data[at] = int(rng.choice([0, 1, 127, 128, 255]))
    return bytes(data)


def read(data: bytes, codec: AcceptsEveryFile | None, force: bool) -> None:
    try:
        packet = unpack(data, codec, force=force, budget=BUDGET if codec else None)
    except BitstreamError as refusal:
        error = str(refusal)
    else:
        check(packet)
        return
    assert "\n" not in error
    assert len(error) < 600


def check(packet: Packet) -> None:
    limits = np.array(packet.codebook_sizes)[:, None]
    assert packet.codes.shape == (len(packet.codebook_sizes), packet.codes.shape[1])
    absent = packet.codes < 0
    assert (packet.codes >= -1).all()
    assert (packet.codes < limits).all()
    assert (absent[:-1] <= absent[1:]).all()  # absent codes are the last ones of a frame
    for row, stride in zip(packet.codes, packet.strides, strict=True):
        assert (row == row[np.arange(len(row)) // stride * stride]).all()
    assert packet.num_samples <= packet.codes.shape[1] * packet.hop_length


def case(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = generated(rng) if seed % 3 == 0 else mutated(rng)
    data = with_checksum(data) if rng.random() < 0.95 else data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about other weights
        for codec in (None, CODECS[rng.integers(len(CODECS))], CODECS[rng.integers(len(CODECS))], HUGE):
            read(data, codec, force=bool(rng.random() < 0.5))


@pytest.mark.slow
def test_hostile_files_are_read_or_raise_an_error_within_limits() -> None:
    assert run_limited(case, CASES, memory_bytes=512 << 20, seconds=10) == []


@pytest.mark.slow
def test_hostile_paths_raise_an_error_within_limits(tmp_path) -> None:
    def from_disk(seed: int) -> None:
        rng = np.random.default_rng(seed)
        path = tmp_path / f"{seed}.cvq"
        path.write_bytes(mutated(rng))
        for codec in (None, CODECS[0]):
            with pytest.raises(BitstreamError, match=path.name):
                read_cvq(path, codec)

    assert run_limited(from_disk, 300, memory_bytes=256 << 20) == []


@pytest.mark.slow
def test_many_mutated_files_reach_the_decoding_of_codes() -> None:
    """The fuzzer is useful only if its files pass the checks of the header."""
    read_whole = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        try:
            unpack(with_checksum(mutated(rng)), budget=BUDGET)
            read_whole += 1
        except BitstreamError:
            pass
    assert read_whole > 30

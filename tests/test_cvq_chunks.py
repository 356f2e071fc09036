"""`.cvq` files in chunks: any partition of writes, pipes, seeking, channels, silence, lengths, and damage."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from forged_cvq import indexed, parts_of, signed, varint
from fuzz.limits import run_limited
from hypothesis import given, settings
from hypothesis import strategies as st
from small_codecs import StoredCodec
from test_cvq_layouts import block_codes

from codecvq.bitstream import CvqReader, CvqWriter, pack, read_cvq, unpack, write_cvq
from codecvq.errors import BitstreamError
from codecvq.quantizer import CodeTables

RATE, HOP = 16_000, 320  # of StoredCodec: 50 frames per second


def written(codec, codes, length=None, silent=None, cuts=(), **options):
    """The bytes of a file whose codes `[C, N, T]` are written in parts that end at `cuts`."""
    stream = io.BytesIO()
    writer = CvqWriter(stream, codec, **options)
    ends = [*sorted(cuts), codes.shape[-1]]
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        writer.write(codes[..., start:end], None if silent is None else silent[..., start:end])
    assert writer.close(length) == len(stream.getvalue())
    return stream.getvalue()


def codes_of(codec, frames, channels=1, seed=0):
    """Codes `[C, N, T]` that a codec could give, with absent codes if its depth varies."""
    sizes, strides = codec.codebook_sizes, codec.strides
    codes = np.array([block_codes(sizes, strides, frames, seed + channel) for channel in range(channels)])
    if codec.variable_depth:
        block = int(np.lcm.reduce(strides))
        rng = np.random.default_rng(seed)
        depths = rng.integers(0, len(sizes) + 1, (channels, -(-frames // block)))
        depths = np.repeat(depths, block, axis=1)[:, None, :frames]
        codes[np.arange(len(sizes))[:, None] >= depths] = -1
    return codes


class OnlyReads:
    """A stream that can neither seek nor say whether it can, and gives few bytes at a time."""

    def __init__(self, data, at_most=7):
        self.stream, self.at_most = io.BytesIO(data), at_most

    def read(self, count):
        return self.stream.read(min(count, self.at_most))


@st.composite
def codecs(draw):
    count = draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(1, 2**62), min_size=count, max_size=count))
    sizes = [min(size, draw(st.sampled_from([5, 64, 1024, 2**62]))) for size in sizes]
    strides = draw(st.lists(st.sampled_from([1, 1, 2, 3, 4]), min_size=count, max_size=count))
    small = all(size <= 1024 for size in sizes)
    tables = CodeTables.uniform(sizes) if small and draw(st.booleans()) else None
    return StoredCodec(sizes, strides, draw(st.booleans()), tables)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_partition_of_writes_gives_the_same_bytes_and_the_same_codes(data):
    codec = data.draw(codecs())
    channels, frames = data.draw(st.sampled_from([1, 1, 2, 3])), data.draw(st.integers(0, 40))
    chunk_s = data.draw(st.sampled_from([0.001, 0.06, 0.1, 0.5, 100]))
    codes = codes_of(codec, frames, channels, data.draw(st.integers(0, 99)))
    silent = np.array(data.draw(st.lists(st.booleans(), min_size=frames, max_size=frames)), dtype=bool)
    silent = np.stack([silent, np.roll(silent, 3), ~silent][:channels]) if data.draw(st.booleans()) else None
    options = {
        "channels": channels,
        "chunk_s": chunk_s,
        "entropy": data.draw(st.sampled_from([True, False, "auto"])),
    }
    whole = written(codec, codes, None, silent, **options)
    cuts = data.draw(st.lists(st.integers(0, frames), max_size=6))
    assert written(codec, codes, None, silent, cuts, **options) == whole
    for stream in (io.BytesIO(whole), OnlyReads(whole)):
        chunks = list(CvqReader(stream, codec))
        assert [chunk.first_frame for chunk in chunks] == list(
            np.cumsum([0, *(chunk.codes.shape[2] for chunk in chunks)])[:-1]
        )
        if not chunks:
            assert frames == 0
            continue
        got = np.concatenate([chunk.codes for chunk in chunks], axis=2)
        quiet = np.concatenate([chunk.silent for chunk in chunks], axis=1)
        assert np.array_equal(np.where(quiet[:, None], 0, codes), got)
        assert (quiet <= (silent if silent is not None else False)).all()
        if silent is not None and set(codec.strides) == {1}:
            assert np.array_equal(quiet, silent)


def test_all_lengths_up_to_three_frames_are_exact():
    codec = StoredCodec((5, 5))
    for rate in (RATE, 44_100):
        for length in range(0, 3 * HOP + 2):
            coded = -(-length * RATE // rate)
            frames = -(-coded // HOP)
            packet = unpack(pack(codec, np.zeros((2, frames), int), length, sample_rate=rate), codec)
            assert (packet.original_num_samples, packet.original_sample_rate) == (length, rate)
            assert (packet.num_samples, packet.codes.shape) == (coded, (2, frames))


def test_a_pipe_is_read_while_it_is_written():
    """The reader returns each chunk before the writer has the codes of the next one."""
    codec = StoredCodec((5,) * 3)
    codes = codes_of(codec, 250)
    read_end, write_end = os.pipe()
    turns, got = threading.Semaphore(0), []

    def read():
        with open(read_end, "rb") as stream:
            reader = CvqReader(stream, codec)
            for chunk in reader:
                got.append(chunk.codes)
                turns.release()
            got.append((reader.frames, reader.num_samples))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    with open(write_end, "wb") as stream:
        writer = CvqWriter(stream, codec)
        for first in range(0, 250, 50):
            writer.write(codes[..., first : first + 50])
            assert turns.acquire(timeout=10)
        writer.close(250 * HOP - 9)
    thread.join(10)
    assert np.array_equal(np.concatenate(got[:-1], axis=2), codes)
    assert got[-1] == (250, 250 * HOP - 9)


@pytest.mark.parametrize("has_index", [True, False], ids=["index", "no index"])
@pytest.mark.parametrize("strides", [(1, 1), (4, 1)], ids=str)
def test_seeking_gives_the_chunk_of_every_frame(strides, has_index):
    codec = StoredCodec((64, 9), strides, True)
    codes = codes_of(codec, 73)
    data = written(codec, codes, chunk_s=0.16)
    data = data if has_index else data[:-2]
    for frame in (0, 7, 8, 9, 40, 72, 3, 71):
        reader = CvqReader(io.BytesIO(data), codec)
        assert reader.frames == (73 if has_index else None)
        for _ in range(frame % 3):
            next(reader)
        first = reader.seek(frame)
        assert first == frame // 8 * 8
        chunk = next(reader)
        assert chunk.first_frame == first
        assert np.array_equal(chunk.codes, codes[..., first : first + 8])
        following = next(reader, None) if first < 64 else None
        assert first >= 64 or following.first_frame == first + 8
    for frame in (-1, 73, 10**9):
        with pytest.raises(BitstreamError, match=rf"frame {frame} is not in the file|truncated"):
            CvqReader(io.BytesIO(data), codec).seek(frame)


def test_a_pipe_seeks_forward_only():
    codec = StoredCodec((9,))
    codes = codes_of(codec, 100)
    reader = CvqReader(OnlyReads(written(codec, codes, chunk_s=0.2)), codec)
    assert reader.seek(35) == 30
    assert reader.seek(34) == 30
    assert np.array_equal(next(reader).codes, codes[..., 30:40])
    with pytest.raises(BitstreamError, match="a pipe cannot go back"):
        reader.seek(39)
    assert reader.seek(45) == 40


def test_seeking_reads_little_of_a_long_file():
    codec = StoredCodec((5,) * 12)
    codes = codes_of(codec, 50 * 600)
    data = written(codec, codes, entropy=False)

    class Counted(io.BytesIO):
        count = 0

        def read(self, *arguments):
            block = super().read(*arguments)
            self.count += len(block)
            return block

    stream = Counted(data)
    reader = CvqReader(stream, codec)
    reader.seek(20_000)
    assert np.array_equal(next(reader).codes, codes[..., 20_000:20_050])
    assert stream.count < 2500 < len(data) / 20  # header, index and one chunk of ten minutes


def test_properties_of_the_recording_are_stored():
    codec = StoredCodec((5, 5))
    data = written(codec, codes_of(codec, 50, 6), 48_000, channels=6, sample_rate=48_000, num_samples=48_000)
    reader = CvqReader(OnlyReads(data), codec)
    assert (reader.channels, reader.coded_channels, reader.original_sample_rate) == (6, 6, 48_000)
    assert (reader.original_num_samples, reader.num_samples, reader.frames) == (48_000, 16_000, None)
    packet = unpack(data, codec)
    assert (packet.channels, packet.codes.shape, packet.original_num_samples) == (6, (6, 2, 50), 48_000)


def test_a_codec_of_two_channels_codes_a_recording_of_three_in_two_parts():
    codec = StoredCodec((5, 5))
    codec.channels = 2
    codes = codes_of(codec, 9, 2)
    reader = CvqReader(io.BytesIO(written(codec, codes, channels=3)), codec)
    assert (reader.channels, reader.coded_channels) == (3, 2)
    assert np.array_equal(next(reader).codes, codes)


def test_silence_costs_next_to_nothing():
    codec = StoredCodec((1024,) * 8)
    codes = codes_of(codec, 500)
    silent = np.ones((1, 500), dtype=bool)
    empty, full = written(codec, codes[..., :0]), written(codec, codes)
    quiet = written(codec, codes, silent=silent)
    assert len(quiet) - len(empty) <= 10 * 13  # 10 chunks of a second
    assert len(quiet) < len(full) / 20
    silent[0, 100:] = False
    half = unpack(written(codec, codes, silent=silent), codec)
    assert np.array_equal(half.silent, silent[0])
    assert (half.codes[:, :100] == 0).all()
    assert np.array_equal(half.codes[:, 100:], codes[0, :, 100:])


def test_codes_of_silent_frames_are_not_checked():
    codec = StoredCodec((5, 5), (2, 1))
    codes, silent = codes_of(codec, 8), np.zeros((1, 8), dtype=bool)
    codes[:, :, 2:4] = 99
    silent[:, 2:5] = True  # frame 4 is half of a block
    packet = unpack(written(codec, codes, silent=silent), codec)
    assert packet.silent.tolist() == [False, False, True, True, False, False, False, False]
    assert np.array_equal(packet.codes[:, 4:], codes[0, :, 4:])


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"channels": 0}, "channels is 0"),
        ({"channels": 256}, "channels is 256"),
        ({"sample_rate": 0}, "sample_rate is 0"),
        ({"sample_rate": 44100.0}, "sample_rate is a float"),
        ({"num_samples": -1}, "num_samples is -1"),
        ({"entropy": "best"}, "entropy is 'best'"),
        ({"chunk_s": 0}, "chunk_s is 0"),
        ({"chunk_s": "1"}, "chunk_s is '1'"),
    ],
    ids=str,
)
def test_invalid_options_of_a_writer_are_an_error(arguments, what):
    with pytest.raises(BitstreamError, match=what):
        CvqWriter(io.BytesIO(), StoredCodec((5, 5)), **arguments)


def test_invalid_writes_are_an_error():
    codec = StoredCodec((5, 5), variable_depth=True)
    stream = io.BytesIO()
    with pytest.raises(BitstreamError, match=r"code 9 of codebook 1 at frame 53"):
        CvqWriter(stream, codec).write(np.where(np.arange(100) == 53, [[0], [9]], 0))
    writer = CvqWriter(stream, codec, num_samples=900)
    writer.write(np.zeros((1, 3), int))
    for wrong in (np.zeros((2, 3), int), np.zeros((2, 1, 3), int)):
        with pytest.raises(BitstreamError, match=r"codebooks|clip by clip"):
            writer.write(wrong)
    for silent in (np.zeros((1, 2), bool), np.zeros((1, 3)), [[True], [True, False]]):
        with pytest.raises(BitstreamError, match="silent"):
            writer.write(np.zeros((1, 3), int), silent)
    with pytest.raises(BitstreamError, match="num_samples is 901, but the header has 900"):
        writer.close(901)
    writer.close()
    with pytest.raises(BitstreamError, match="closed"):
        writer.write(np.zeros((1, 3), int))
    writer = CvqWriter(stream, codec)
    writer.write(np.zeros((1, 3), int))
    with pytest.raises(BitstreamError, match="needs 4 frames"):
        writer.close(961)
    wide = CvqWriter(stream, StoredCodec((5,) * 3, (2**31 - 1, 2**31 - 2, 2**31 - 3)))
    with pytest.raises(BitstreamError, match="least common multiple"):
        wide.write(np.zeros((3, 1), int))


def test_a_with_block_closes_the_file_unless_it_fails(tmp_path):
    codec, codes = StoredCodec((5,)), np.zeros((1, 120), int)
    with open(tmp_path / "a.cvq", "wb") as stream, CvqWriter(stream, codec) as writer:
        writer.write(codes)
    assert read_cvq(tmp_path / "a.cvq", codec).num_samples == 120 * HOP

    def interrupted():
        with open(tmp_path / "b.cvq", "wb") as stream, CvqWriter(stream, codec) as writer:
            writer.write(codes)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    with pytest.raises(BitstreamError, match=r"b\.cvq: chunk 2 .*end record: the file is truncated"):
        read_cvq(tmp_path / "b.cvq", codec)
    packet = read_cvq(tmp_path / "b.cvq", codec, salvage=True)
    assert packet.codes.shape == (1, 100)
    assert [str(gap) for gap in packet.gaps] == ["2.00 s to the end"]


def test_chunks_of_a_second_cost_few_bytes():
    codec = StoredCodec((5,) * 12)
    codes = codes_of(codec, 50 * 100)
    size = len(written(codec, codes, entropy=False))
    assert (size - len(pack(codec, codes[0], 0, entropy=False))) / 99 <= 11  # chunk and index


# damage


CODEC = StoredCodec((5, 9), (2, 1), True)
CODES = codes_of(CODEC, 60)
DATA = written(CODEC, CODES, 60 * HOP - 5, chunk_s=0.2)  # six chunks of ten frames
CHUNKS = [chunk.num_bytes for chunk in CvqReader(io.BytesIO(DATA))]
STARTS = np.cumsum([len(written(CODEC, CODES[..., :0], chunk_s=0.2)) - 8, *CHUNKS]).tolist()


def parts():
    """Header, the six chunks, and the end record of DATA."""
    edges = [0, *STARTS, len(DATA)]
    return [DATA[start:end] for start, end in pairwise(edges)]


def salvaged(data, codec=CODEC):
    """First frames of the chunks, and the gaps in frames, from a file and from a pipe."""
    results = []
    for stream in (io.BytesIO(data), OnlyReads(data)):
        reader = CvqReader(stream, codec, salvage=True)
        firsts = []
        for chunk in reader:
            span = slice(chunk.first_frame, chunk.first_frame + chunk.codes.shape[2])
            assert np.array_equal(chunk.codes, CODES[..., span])
            firsts.append(chunk.first_frame)
        results.append((firsts, [(gap.first_frame, gap.end_frame) for gap in reader.gaps]))
    assert results[0] == results[1]
    return results[0]


def test_the_parts_of_the_damaged_files_here_are_whole():
    assert len(CHUNKS) == 6
    assert b"".join(parts()) == DATA
    assert parts()[-1][0] == 0xE5
    assert salvaged(DATA) == ([0, 10, 20, 30, 40, 50], [])


REARRANGED = {  # parts, what the error says, first frames and gaps of salvage
    "missing": ([0, 1, 2, 4, 5, 6, 7], "chunk 2 .at 0.40 s.*chunk 3 is at its place: chunks are missing",
        [0, 10, 30, 40, 50], [(20, 30)]),
    "first missing": ([0, 2, 3, 4, 5, 6, 7], "chunk 0 .at 0.00 s", [10, 20, 30, 40, 50], [(0, 10)]),
    "last missing": ([0, 1, 2, 3, 4, 5, 7], "counts 60 frames, but 50 come before|1 chunks|possible",
        [0, 10, 20, 30, 40], [(50, 60)]),
    "duplicated": ([0, 1, 2, 3, 3, 4, 5, 6, 7], "chunk 2 is at its place: chunks are out of order",
        [0, 10, 20, 30, 40, 50], []),
    "reordered": ([0, 1, 3, 2, 4, 5, 6, 7], "chunk 2 is at its place: chunks are missing",
        [0, 20, 30, 40, 50], [(10, 20)]),
    "no end": ([0, 1, 2, 3, 4, 5, 6], "chunk 6 .*has no end record.*truncated",
        [0, 10, 20, 30, 40, 50], [(60, None)]),
}  # fmt: skip


@pytest.mark.parametrize(("order", "what", "firsts", "gaps"), REARRANGED.values(), ids=REARRANGED)
def test_missing_and_moved_chunks_are_an_error_and_can_be_salvaged(order, what, firsts, gaps):
    data = b"".join(parts()[at] for at in order)
    with pytest.raises(BitstreamError, match=what) as caught:
        unpack(data, CODEC)
    assert "\n" not in str(caught.value)
    assert salvaged(data) == (firsts, gaps)


def test_truncation_at_any_byte_is_an_error_and_keeps_the_chunks_before_it():
    for length in range(len(DATA)):
        with pytest.raises(BitstreamError):
            unpack(DATA[:length], CODEC)
        whole = sum(end <= length for end in STARTS[1:])
        if length < STARTS[1]:
            with pytest.raises(BitstreamError):
                salvaged(DATA[:length])
        else:
            assert salvaged(DATA[:length]) == ([10 * n for n in range(whole)], [(10 * whole, None)])


def test_any_flipped_bit_is_an_error_and_loses_at_most_one_chunk():
    for bit in range(8 * len(DATA)):
        damaged = bytearray(DATA)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            unpack(bytes(damaged), CODEC)
        hit = sum(start <= bit // 8 for start in STARTS) - 1  # chunk, or -1 for the header, 6 for the end
        if hit == -1:
            with pytest.raises(BitstreamError):
                salvaged(bytes(damaged))
        elif bit % 19 == 0:
            firsts, gaps = salvaged(bytes(damaged))
            assert firsts == [10 * n for n in range(6) if n != hit]
            assert gaps == ([(60, None)] if hit == 6 else [(10 * hit, 10 * hit + 10)])


def test_a_known_length_shows_how_much_is_missing_at_the_end():
    data = written(CODEC, CODES, chunk_s=0.2, num_samples=60 * HOP)[: STARTS[4]]
    reader = CvqReader(io.BytesIO(data), CODEC, salvage=True)
    assert sum(chunk.codes.shape[2] for chunk in reader) >= 30
    assert (reader.gaps[0].end_frame, reader.gaps[0].end_s) == (60, 1.2)


def test_salvage_fills_missing_codes_with_zeros():
    data = bytearray(DATA)
    data[STARTS[2] + 5] ^= 4
    packet = unpack(bytes(data), CODEC, salvage=True)
    assert [str(gap) for gap in packet.gaps] == ["0.40 s to 0.60 s"]
    expected = CODES[0].copy()
    expected[:, 20:30] = 0
    assert np.array_equal(packet.codes, expected)
    assert packet.num_samples == 60 * HOP - 5


def test_chunks_of_another_file_are_not_accepted():
    """The checksum of a chunk includes the header, so files cannot be spliced."""
    other = written(StoredCodec((5, 9), (2, 1), True, name="other"), CODES, 60 * HOP - 5, chunk_s=0.2)
    data = DATA[: STARTS[2]] + other[STARTS[2] : STARTS[3]] + DATA[STARTS[3] :]
    with pytest.raises(BitstreamError, match=r"chunk 2 .at 0.40 s, byte \d+.: its checksum"):
        unpack(data, CODEC)
    assert salvaged(data) == ([0, 10, 30, 40, 50], [(20, 30)])


def test_bytes_after_the_end_are_an_error_of_files_only():
    with pytest.raises(BitstreamError, match="3 bytes more than its end record"):
        unpack(DATA + b"abc", CODEC)
    stream = io.BytesIO(DATA + DATA)
    for _ in range(2):  # one file after the other, as in a pipe
        assert sum(chunk.codes.shape[2] for chunk in CvqReader(stream, CODEC)) == 60


def test_a_file_holds_the_chunks_of_its_writer(tmp_path):
    write_cvq(tmp_path / "a.cvq", CODEC, CODES[0], 60 * HOP - 5, chunk_s=0.2)
    assert (tmp_path / "a.cvq").read_bytes() == DATA


class Endless:
    """A pipe with one chunk after the other, and no end."""

    def __init__(self, data):
        self.parts, self.number, self.waiting = parts_of(data), 0, b""
        self.header_bytes = len(self.parts.header) + 2

    def read(self, count):
        if not self.waiting:
            (tag, body), *_ = self.parts.chunks
            chunk = tag, varint(self.number) + body[1:]
            data = signed(self.parts._replace(chunks=[chunk], end=b""))
            self.waiting = data[self.header_bytes if self.number else 0 : -5]  # without an end record
            self.number += 1
        block, self.waiting = self.waiting[:count], self.waiting[count:]
        return block


@pytest.mark.parametrize("salvage", [False, True], ids=["strict", "salvage"])
def test_an_endless_pipe_is_read_in_constant_memory(salvage):
    codec = StoredCodec((1024,) * 8)
    codes = codes_of(codec, 50)
    reader = CvqReader(Endless(written(codec, codes, entropy=False)), codec, salvage=salvage)
    peaks = []
    tracemalloc.start()
    for number in range(1500):
        assert np.array_equal(next(reader).codes, codes)
        if number in (100, 1499):
            peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000 < 500_000  # of a megabyte


FIVES = StoredCodec((5,) * 12)
FORGED = {  # what it claims, and parts of a file with valid checksums
    "silence": lambda parts: parts._replace(
        chunks=[(0xA8, b"\0\3" + varint(2**21 // 12) + b"\1\0" + bytes(900))]
    ),
    "many chunks of silence": lambda parts: parts._replace(
        chunks=[(0xA8, varint(number) + b"\3" + varint(100) + b"\1\0") for number in range(3_000)]
    ),
    "a long chunk": lambda parts: parts._replace(chunks=[(0xA0, b"\0" + bytes(9000))]),
    "a far chunk": lambda parts: parts._replace(chunks=[(0xA0, varint(2**60) + parts.chunks[0][1][1:])]),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_forged_files_take_little_memory_and_time(forge):
    parts = forge(parts_of(written(FIVES, codes_of(FIVES, 100), chunk_s=4000)))
    data = indexed(parts, 100 * len(parts.chunks), 0)

    def read_all(seed):
        for salvage in (False, True):
            for stream in (io.BytesIO(data), OnlyReads(data, 10_000)):
                with contextlib.suppress(BitstreamError):
                    list(CvqReader(stream, salvage=salvage))
            with contextlib.suppress(BitstreamError):
                unpack(data, salvage=salvage)

    assert run_limited(read_all, 1, memory_bytes=(30 << 20) + 2048 * len(data), seconds=10) == []


def test_a_search_for_chunks_among_false_starts_ends():
    """Each byte of the file looks like the start of a long chunk."""
    data = bytearray(DATA[: STARTS[0]])
    data += (b"\xa0" + varint(2000) + b"\1") * 50_000
    start = time.process_time()
    with pytest.raises(BitstreamError, match="no chunk of it is whole"):
        list(CvqReader(io.BytesIO(data), CODEC, salvage=True))
    assert time.process_time() - start < 10

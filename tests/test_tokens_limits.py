"""Small files that claim large contents raise quickly, and so do paths that are not regular files."""

from __future__ import annotations

import os
import resource
import struct
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forged_shards import forge
from small_codecs import HOP, RATE, LevelCodec
from test_tokens import tone

from codecvq.audio import write_audio
from codecvq.data.corpus import Clip
from codecvq.errors import TokensError
from codecvq.tokens import check, read_tokens, tokenize

SHARD = "data/train-00000-of-00001.parquet"
MEMORY = 400 << 20  # bytes that reading may allocate before it raises


@pytest.fixture
def dataset(tmp_path):
    write_audio(tmp_path / "a.wav", tone(HOP * 500, 1), RATE)
    tokenize(LevelCodec(), [Clip(id="a", path=tmp_path / "a.wav", text="a")], tmp_path / "t")
    return tmp_path / "t"


def assert_rejected(dataset, message):
    """Reading and checking raise within a second and without much memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, before[1]))
    began = time.process_time()
    try:
        with pytest.raises(TokensError, match=message):
            list(read_tokens(dataset))
        with pytest.raises(TokensError, match=message):
            read_tokens(dataset)["a"]
        assert "damaged" in check(dataset).problems[0]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - began < 1


def varint(number):
    """Variable-length integer: seven bits per byte, lowest first."""
    head = bytes([number & 127 | (128 if number > 127 else 0)])
    return head + (varint(number >> 7) if number > 127 else b"")


def run(value, count):
    """A run of one value in Parquet's run-length encoding."""
    return varint(count << 1) + bytes([value])


def page(count):
    """A page of one row of `count` codes, in Thrift's compact protocol with run-length encoding."""
    repetition = run(0, 1) + run(2, count - 1)
    definition = run(4, count)
    body = struct.pack("<I", len(repetition)) + repetition + struct.pack("<I", len(definition)) + definition
    body += b"\x01" + run(0, count)

    def number(value):
        return b"\x15" + varint(value << 1)

    header = number(0) + number(len(body)) * 2  # a data page
    return header + b"\x2c" + number(count) + number(8) + number(3) * 2 + b"\x00\x00" + body


def test_a_small_page_that_claims_two_billion_codes_is_rejected(dataset):
    path = dataset / SHARD
    codes = pa.array([[list(range(256)) + list(range(244))] * 2], type=pa.list_(pa.list_(pa.uint16())))
    forge(path, {"codes": codes}, compression="none")
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(1)
    data = bytearray(path.read_bytes())
    bomb = page(2**31 - 1)
    assert len(bomb) < 70
    data[chunk.data_page_offset : chunk.data_page_offset + len(bomb)] = bomb
    path.write_bytes(data)
    assert_rejected(dataset, "pages|page header")


def test_a_small_shard_with_many_equal_codes_is_rejected(dataset, monkeypatch):
    count = 2_000_000
    monkeypatch.setattr("codecvq.tokens.shard.BASE_CODES", count // 2)
    inner = pa.ListArray.from_arrays(
        pa.array([0, count // 2, count], pa.int32()), pa.array(np.zeros(count, dtype=np.uint16))
    )
    codes = pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), inner)
    forge(dataset / SHARD, {"codes": codes})
    assert (dataset / SHARD).stat().st_size < 100_000
    assert_rejected(dataset, "claims 2,000,000 values")


def test_a_long_text_in_many_rows_is_rejected(dataset):
    count, path = 1000, dataset / SHARD
    row = pq.ParquetFile(path).read()
    texts = dict(row.schema.metadata)
    del texts[b"codecvq.checksums"]
    text = pa.DictionaryArray.from_arrays(pa.array([0] * count), pa.array(["long " * 200_000]))
    table = pa.concat_tables([row] * count).combine_chunks()
    table = table.set_column(row.column_names.index("text"), "text", text)
    with pq.ParquetWriter(path, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(texts)
    assert path.stat().st_size < 200_000
    with pytest.raises(TokensError, match="1,000 texts of up to 1,000,000 bytes"):
        list(read_tokens(dataset))


def test_too_large_row_groups_are_rejected(dataset):
    row = pq.ParquetFile(dataset / SHARD).read()
    texts = dict(row.schema.metadata)
    del texts[b"codecvq.checksums"]
    table = pa.concat_tables([row] * 1001).combine_chunks().replace_schema_metadata(texts)
    pq.write_table(table, dataset / SHARD)
    with pytest.raises(TokensError, match="row group 0 has 1001 rows; 1 to 1000 are read"):
        read_tokens(dataset)


@pytest.mark.parametrize("name", ["codec.json", SHARD])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "nowhere"])
def test_paths_that_are_not_regular_files_are_rejected_quickly(dataset, name, kind):
    path = dataset / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "loop": path, "nowhere": "nowhere"}[kind])
    began = time.monotonic()
    for read in (read_tokens, lambda folder: tokenize(LevelCodec(), [Clip(id="a", path=folder)], folder)):
        with pytest.raises(TokensError, match=r"not a regular file|cannot be read|missing|another job"):
            read(dataset)
    assert time.monotonic() - began < 1


def test_symlinks_to_files_are_read(dataset, tmp_path):
    """The cache of Hugging Face uses symlinks."""
    for name in ("codec.json", SHARD):
        (dataset / name).rename(tmp_path / "blob")
        (tmp_path / "blob").rename(tmp_path / f"blob-{len(name)}")
        (dataset / name).symlink_to(tmp_path / f"blob-{len(name)}")
    assert [row.id for row in read_tokens(dataset)] == ["a"]
    assert check(dataset).problems == ()

"""Damaged and forged token datasets give documented errors, never other codes without an error."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from limits import run_limited

sys.path.insert(0, str(Path(__file__).parents[1]))
from forged_shards import forge
from small_codecs import HOP, RATE, LevelCodec
from test_tokens import tone

from codecvq.audio import write_audio
from codecvq.data.corpus import Clip
from codecvq.errors import CodecvqError
from codecvq.tokens import check, detokenize, read_card, read_tokens, tokenize

CASES = 1200
SHARDS = [f"data/train-0000{i}-of-00002.parquet" for i in range(2)]

Codes = dict[str, list[list[int]]]

#: JSON values of every kind, including extreme ones
VALUES: list[Any] = [
    None, True, -1, 0, 1, 255, 256, 2**31, 2**63 - 1, 2**64, 10**400, 1.5, -0.0, float("nan"), float("inf"),
    "", "a", "../x", "a\0b", "\ud800", "²", "9" * 5000, [], [[]], [1, "a"], {}, {"a": {}}, {"train": 10**9},
]  # fmt: skip
TYPES = [
    pa.uint8(), pa.int16(), pa.uint32(), pa.int64(), pa.uint64(), pa.float16(), pa.float64(), pa.string(),
    pa.binary(), pa.bool_(), pa.date32(), pa.timestamp("us", "Mars/Base"), pa.duration("s"),
    pa.decimal128(5, 2), pa.list_(pa.uint16()), pa.list_(pa.list_(pa.int32())), pa.large_string(),
    pa.struct([("path", pa.string())]), pa.map_(pa.string(), pa.int64()),
    pa.dictionary(pa.int32(), pa.string()), pa.list_(pa.uint16(), 2), pa.time32("s"), pa.null(),
]  # fmt: skip


def write_dataset(folder: Path, codec: LevelCodec) -> tuple[Path, Codes]:
    """A dataset of two shards and eight clips, and its codes."""
    clips = []
    for i in range(8):
        path = folder / "audio" / f"{i}.wav"
        write_audio(path, tone(HOP * (1 + 3 * i) - i, i), RATE)
        columns = {"n": i, "tags": ["a"] * i, "x": {"y": i / 3}}
        clips.append(Clip(id=f"clip{i}", path=path, text=f"text {i}", columns=columns))
    tokenize(codec, clips, folder / "t", shard_clips=4)
    return folder / "t", {row.id: row.codes.tolist() for row in read_tokens(folder / "t")}


def flip(rng: random.Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        at = rng.randrange(len(damaged))
        damaged[at] = rng.choice((damaged[at] ^ (1 << rng.randrange(8)), 0, 255, rng.randrange(256)))
    return bytes(damaged)


def splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start, end = sorted(rng.randrange(len(data)) for _ in range(2))
    return rng.choice((data[:end], data[start:], data[:start] + data[end:], data[:start] + other[start:]))


def bytes_changed(rng: random.Random, folder: Path) -> None:
    path, other = (folder / name for name in rng.sample(SHARDS, 2))
    data = path.read_bytes()
    path.write_bytes(flip(rng, data) if rng.random() < 0.8 else splice(rng, data, other.read_bytes()))


def footer_changed(rng: random.Random, folder: Path) -> None:
    """Change bytes of the footer and of page headers, from which readers take sizes and counts."""
    path = folder / rng.choice(SHARDS)
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    starts = [footer] + [
        column.data_page_offset
        for column in map(pq.ParquetFile(path).metadata.row_group(0).column, range(10))
    ]
    at = rng.choice(starts)
    size = 600 if at == footer else 40
    path.write_bytes(data[:at] + flip(rng, data[at : at + size]) + data[at + size :])


def checksums_dropped(rng: random.Random, folder: Path) -> None:
    path = folder / rng.choice(SHARDS)
    forge(path, write_page_checksum=False, compression=rng.choice(("none", "zstd")))
    path.write_bytes(flip(rng, path.read_bytes()))


def random_array(rng: random.Random, count: int) -> pa.Array:
    kind = rng.choice(TYPES)
    values = [rng.choice(VALUES) for _ in range(count)]
    while True:
        try:
            return pa.array(values, type=kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            values[rng.randrange(count)] = None
            values = values if rng.random() < 0.9 else [None] * count


def random_codes(rng: random.Random, count: int) -> pa.Array:
    def book() -> list[int | None]:
        return [rng.choice((0, 1, 255, 256, 65535, None)) for _ in range(rng.randrange(4))]

    rows = [[book() for _ in range(rng.choice((0, 1, 2, 2, 3)))] for _ in range(count)]
    return pa.array(rows, type=pa.list_(pa.list_(pa.uint16())))


def values_changed(rng: random.Random, folder: Path) -> None:
    path = folder / rng.choice(SHARDS)
    file = pq.ParquetFile(path)
    names, count = file.schema_arrow.names, file.metadata.num_rows
    name = rng.choice([*names, "codes", "new"])
    if name == "codes" and rng.random() < 0.5:
        array = random_codes(rng, count)
    elif name in names and rng.random() < 0.5:
        old = file.read().column(name)
        picked = [rng.choice((i, i, i, None, rng.randrange(count))) for i in range(count)]
        array = old.take(pa.array(picked, pa.int64()))
    else:
        array = random_array(rng, count)
    drop = [rng.choice(names)] if rng.random() < 0.1 else []
    try:
        forge(path, {name: array}, drop=[one for one in drop if one != name], checksums=rng.random() < 0.2)
    except pa.ArrowException:  # values that Parquet cannot store
        path.write_bytes(b"")


def mutated(rng: random.Random, value: Any) -> Any:
    """A JSON value with one part changed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key, changed = rng.choice(list(value)), dict(value)
        if rng.random() < 0.1:
            del changed[key]
        elif rng.random() < 0.1:
            changed[rng.choice(("new", "", "../x", "a b"))] = changed.pop(key)
        else:
            changed[key] = mutated(rng, value[key])
        return changed
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], mutated(rng, value[at]), *value[at + rng.randrange(2) :]]
    return rng.choice(VALUES)


def mutated_text(rng: random.Random, text: bytes) -> bytes:
    choice = rng.random()
    if choice < 0.1:
        return b"[" * rng.choice((100, 100_000)) + text
    if choice < 0.3:
        return flip(rng, text)
    return json.dumps(mutated(rng, json.loads(text))).encode()


def card_changed(rng: random.Random, folder: Path) -> None:
    path = folder / "codec.json"
    path.write_bytes(mutated_text(rng, path.read_bytes()))
    if rng.random() < 0.5:  # the same change in the metadata of the shards
        for name in SHARDS:
            forge(folder / name, metadata={b"codecvq.codec": path.read_bytes()}, checksums=rng.random() < 0.5)


def texts_changed(rng: random.Random, folder: Path) -> None:
    path = folder / rng.choice(SHARDS)
    key = rng.choice([b"codecvq.codec", b"codecvq.failures", b"codecvq.checksums"])
    text = pq.ParquetFile(path).schema_arrow.metadata[key]
    forge(path, metadata={key: mutated_text(rng, text)}, checksums=True)


def files_changed(rng: random.Random, folder: Path) -> None:
    path, other = (folder / name for name in rng.sample(SHARDS, 2))
    rng.choice((
        path.unlink, lambda: path.rename(path.with_name("x.parquet")), lambda: shutil.copy(path, other),
        lambda: path.write_bytes(b""), lambda: (path.unlink(), path.mkdir()),
        lambda: shutil.copy(path, path.with_name("train-00002-of-00002.parquet")),
    ))()  # fmt: skip


#: attacks, and whether the codes may differ without an error (because checksums are removed)
ATTACKS = [
    (bytes_changed, False), (bytes_changed, False), (footer_changed, False), (checksums_dropped, True),
    (values_changed, True), (values_changed, True), (card_changed, True), (texts_changed, False),
    (files_changed, False),
]  # fmt: skip


def read_all(folder: Path) -> Codes:
    """The codes of every row, read by iteration and by id."""
    dataset = read_tokens(folder)
    sizes = np.array(dataset.card.codebook_sizes, dtype=np.uint64)[:, None]
    codes = {}
    for row in dataset:
        assert row.codes.ndim == 2
        assert (row.codes < sizes).all()
        assert row.num_frames == -(-row.num_samples // dataset.card.hop_length)
        codes[row.id] = row.codes.tolist()
    assert dataset.failures is not None
    for id in dataset.ids:
        assert dataset[id].codes.tolist() == codes[id]
    return codes


def attack(seed: int, base: Path, written: Codes, codec: LevelCodec) -> None:
    rng = random.Random(seed)
    change, may_differ = ATTACKS[seed % len(ATTACKS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "t"
        shutil.copytree(base, folder)
        change(rng, folder)
        clean, codes, message = False, None, ""
        try:
            read_card(folder)
            clean = not check(folder).problems
            codes = read_all(folder)
        except CodecvqError as error:
            message = str(error)
        assert "\n" not in message
        assert len(message) < 1500
        if clean:
            assert codes is not None
            assert may_differ or codes == written
        if rng.random() < 0.3:
            decode(folder, Path(name) / "out", codec)


def decode(folder: Path, out: Path, codec: LevelCodec) -> None:
    try:
        decoded = detokenize(codec, folder, out, suffix=".wav")
    except CodecvqError:
        return
    for failure in decoded.failures:
        assert not re.match(r"\w+: ", failure.error), failure.error
    assert all(path.is_relative_to(out) for path in decoded.files)


@pytest.mark.slow
def test_changed_footer_bytes_do_not_crash_the_process(tmp_path: Path) -> None:
    """For some bytes, pyarrow itself crashes."""
    base, written = write_dataset(tmp_path, LevelCodec())
    path = base / SHARDS[0]
    original = path.read_bytes()
    begin = len(original) - 8 - int.from_bytes(original[-8:-4], "little")

    def change_byte(seed: int) -> None:
        damaged = bytearray(original)
        damaged[begin + 3 * seed] ^= 1 + seed % 2
        path.write_bytes(damaged)
        try:
            if not check(base).problems:
                assert read_all(base) == written
        except CodecvqError:
            pass

    assert run_limited(change_byte, (len(original) - begin) // 3) == []


@pytest.mark.slow
@pytest.mark.parametrize("codec", [LevelCodec(), LevelCodec(strides=(3, 1))], ids=["plain", "strides"])
def test_damaged_and_forged_datasets_give_documented_errors(tmp_path: Path, codec: LevelCodec) -> None:
    base, written = write_dataset(tmp_path, codec)
    state = SimpleNamespace(base=base, written=written)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run_limited(lambda seed: attack(seed, state.base, state.written, codec), CASES) == []

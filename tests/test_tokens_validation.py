"""Validation of token datasets: reading returns what was written or raises an error that names the row."""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forged_shards import CHECKSUMS, column, forge
from small_codecs import HOP, RATE, LevelCodec
from test_tokens import tone

from codecvq.audio import audio_file, write_audio
from codecvq.data.corpus import Clip
from codecvq.errors import CodecvqError, TokensError
from codecvq.tokens import check, detokenize, read_card, read_tokens, tokenize

CODES = pa.list_(pa.list_(pa.uint16()))
SHARD = "data/train-00000-of-00001.parquet"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder and the codes of a dataset of six clips with an additional column."""
    folder = tmp_path_factory.mktemp("written")
    for i in range(6):
        write_audio(folder / "audio" / f"{i}.wav", tone(HOP * (2 + i) - 5, i), RATE)
    clips = [
        Clip(id=f"clip{i}", path=folder / "audio" / f"{i}.wav", text=f"text {i}", columns={"n": i})
        for i in range(6)
    ]
    tokenize(LevelCodec(), clips, folder / "t")
    return folder / "t", {row.id: row.codes for row in read_tokens(folder / "t")}


@pytest.fixture
def dataset(written, tmp_path):
    """A copy of the dataset for modification."""
    shutil.copytree(written[0], tmp_path / "t")
    return tmp_path / "t"


def replace_third(name, value):
    """A function that returns the column with `value` in its third row."""

    def change(path):
        values = column(path, name)
        return pa.array([*values[:2], value, *values[3:]], pq.read_schema(path).field(name).type)

    return change


def with_codes(path, change):
    """Codes of a shard, with `change` applied to the third row."""
    codes = column(path, "codes")
    return pa.array([*codes[:2], change(codes[2]), *codes[3:]], type=CODES)


#: column -> its values with a damaged third row, and the expected message
DAMAGED_ROWS = {
    "ragged": (
        "codes",
        lambda p: with_codes(p, lambda c: [c[0][:-1], [*c[1], 7]]),
        "codebooks of 3, 5 codes, but num_frames is 4",
    ),
    "ragged, right sum": (
        "codes",
        lambda p: with_codes(p, lambda c: [c[0][:1], c[0][1:] + c[1]]),
        "codebooks of 1, 7 codes",
    ),
    "one codebook": ("codes", lambda p: with_codes(p, lambda c: c[:1]), "has 1 codebooks, not 2"),
    "three codebooks": ("codes", lambda p: with_codes(p, lambda c: [*c, c[0]]), "has 3 codebooks, not 2"),
    "no codebooks": ("codes", lambda p: with_codes(p, lambda c: []), "has 0 codebooks, not 2"),
    "beyond": ("codes", lambda p: with_codes(p, lambda c: [c[0], [*c[1][:-1], 256]]), "outside its codebook"),
    "null code": ("codes", lambda p: with_codes(p, lambda c: [[None, *c[0][1:]], c[1]]), "null among"),
    "null codebook": ("codes", lambda p: with_codes(p, lambda c: [None, c[1]]), "null among"),
    "null codes": ("codes", lambda p: with_codes(p, lambda c: None), "has no codes"),
    "frames": ("num_frames", replace_third("num_frames", 3), "num_frames is 3"),
    "more samples": ("num_samples", replace_third("num_samples", 10**6), "frames for 1000000"),
    "fewer samples": ("num_samples", replace_third("num_samples", 1), "frames for 1 samples"),
    "negative": ("num_samples", replace_third("num_samples", -1), "frames for -1 samples"),
    "least": ("num_samples", replace_third("num_samples", -(2**63)), "samples"),
    "null samples": ("num_samples", replace_third("num_samples", None), "has no num_samples"),
    "rate": ("sample_rate", replace_third("sample_rate", 8000), "sample_rate of 8000, not 16000"),
    "codec": ("codec", replace_third("codec", "other"), "is of codec 'other'"),
    "start": ("source", replace_third("source", {"path": "a", "start_s": math.inf}), "start_s of inf"),
    "no path": ("source", replace_third("source", {"path": None, "start_s": 0.0}), "has no source.path"),
}


@pytest.mark.parametrize("case", DAMAGED_ROWS)
def test_a_damaged_row_raises_and_the_others_are_read(dataset, written, tmp_path, case):
    name, damage, message = DAMAGED_ROWS[case]
    path = dataset / SHARD
    forge(path, {name: damage(path)})
    problems = check(dataset).problems
    assert len(problems) == 1
    tokens = read_tokens(dataset)
    with pytest.raises(TokensError, match=rf"{SHARD}: clip 'clip2' .*{message}"):
        list(tokens)
    with pytest.raises(TokensError, match=message):
        tokens["clip2"]
    assert np.array_equal(tokens["clip3"].codes, written[1]["clip3"])
    decoded = detokenize(LevelCodec(), dataset, tmp_path / "out")
    assert len(decoded.files) == 5
    assert [failure.id for failure in decoded.failures] == ["clip2"]
    assert problems[0].endswith(decoded.failures[0].error)


#: changes of a whole column
DAMAGED_COLUMNS = {
    "floats": lambda p: {"codes": pa.array(column(p, "codes"), type=pa.list_(pa.list_(pa.float64())))},
    "signed": lambda p: {"codes": pa.array(column(p, "codes"), type=pa.list_(pa.list_(pa.int16())))},
    "wide": lambda p: {"codes": pa.array(column(p, "codes"), type=pa.list_(pa.list_(pa.uint32())))},
    "flat": lambda p: {"codes": [row[0] for row in column(p, "codes")]},
    "text": lambda p: {"codes": [str(row) for row in column(p, "codes")]},
    "bytes ids": lambda p: {"id": [id.encode() for id in column(p, "id")]},
    "no start": lambda p: {"source": [{"path": row["path"]} for row in column(p, "source")]},
    "float samples": lambda p: {"num_samples": [float(n) for n in column(p, "num_samples")]},
}


@pytest.mark.parametrize("case", DAMAGED_COLUMNS)
def test_a_column_of_another_type_raises(dataset, case):
    columns = DAMAGED_COLUMNS[case](dataset / SHARD)
    forge(dataset / SHARD, columns)
    with pytest.raises(TokensError, match=rf"damaged \(its column '{next(iter(columns))}' is of type"):
        read_tokens(dataset)
    assert len(check(dataset).problems) == 1


def test_a_missing_column_and_invalid_utf8_raise(dataset):
    path = dataset / SHARD
    original = path.read_bytes()
    forge(path, drop=["num_samples"])
    with pytest.raises(TokensError, match="no column 'num_samples'"):
        read_tokens(dataset)
    path.write_bytes(original)
    raw = pa.array([b"a", b"\xff", b"c", b"d", b"e", b"f"], pa.binary())
    forge(path, {"text": pa.Array.from_buffers(pa.string(), 6, raw.buffers())})
    for read in (list, lambda tokens: tokens["clip0"]):
        with pytest.raises(TokensError, match="UTF"):
            read(read_tokens(dataset))
    assert len(check(dataset).problems) == 2  # the damage, and the missing rows


def test_shards_without_checksums_can_be_read(dataset, written):
    forge(dataset / SHARD)
    assert {row.id: row.codes.tolist() for row in read_tokens(dataset)} == {
        id: codes.tolist() for id, codes in written[1].items()
    }
    assert check(dataset).problems == ()


def test_changed_codes_with_old_checksums_raise(dataset):
    path = dataset / SHARD
    forge(path, {"codes": with_codes(path, lambda c: [[*c[0][1:], c[0][0] ^ 1], c[1]])}, checksums=True)
    with pytest.raises(TokensError, match="checksum of row group 0 is wrong"):
        list(read_tokens(dataset))
    assert "checksum" in check(dataset).problems[0]


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        (b"codecvq.codec", None, "damaged"),
        (b"codecvq.codec", b"[" * 100_000, "nested too deeply"),
        (b"codecvq.failures", None, "failures"),
        (b"codecvq.failures", b"[{}]", r"failures\.0\.id is missing"),
        (b"codecvq.failures", b'[{"id": 1, "source": "", "error": ""}]', r"failures\.0\.id is 1"),
        (CHECKSUMS, b"{}", "groups is missing"),
        (CHECKSUMS, b'{"groups": [], "failures": 0}', "checksums do not match"),
        (b"codecvq.checksumt", b"", "unknown key"),
    ],
    ids=range(8),
)
def test_errors_in_a_shard_footer_are_named(dataset, key, text, message):
    forge(dataset / SHARD, metadata={key: text}, checksums=True)
    with pytest.raises(TokensError, match=message):
        read_tokens(dataset)


def test_every_flipped_byte_is_detected_or_harmless(dataset, written):
    """Inverts 150 bytes, one at a time. Either the codes are unchanged, or the damage is reported."""
    path = dataset / SHARD
    original = path.read_bytes()
    codes = {id: array.tolist() for id, array in written[1].items()}
    for position in np.linspace(0, len(original) - 1, 150).astype(int):
        damaged = bytearray(original)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            clean = not check(dataset).problems
            read = {row.id: row.codes.tolist() for row in read_tokens(dataset)}
        except CodecvqError:
            assert not clean
        else:
            assert read == codes


def test_parquet_pages_have_checksums(written):
    """Other readers can verify them: pyarrow detects a changed byte of the codes."""
    data = bytearray((written[0] / SHARD).read_bytes())
    chunk = pq.ParquetFile(written[0] / SHARD).metadata.row_group(0).column(1)
    data[chunk.dictionary_page_offset + chunk.total_compressed_size - 3] ^= 1
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(pa.BufferReader(bytes(data)), page_checksum_verification=True).read()


BROKEN_CARDS = {
    "missing": ({"hop_length": ...}, "hop_length is missing"),
    "text": ({"hop_length": "160"}, "hop_length is '160'"),
    "null": ({"codebook_sizes": None}, "codebook_sizes is None"),
    "number": ({"codebook_sizes": 256}, "codebook_sizes is 256"),
    "empty": ({"codebook_sizes": []}, "codebook_sizes"),
    "zero": ({"codebook_sizes": [0, 256]}, r"codebook_sizes\.0 is 0"),
    "huge": ({"codebook_sizes": [2**63, 256]}, r"codebook_sizes\.0 is"),
    "more": ({"codebook_sizes": [256] * 3}, "3 codebook_sizes, but codec_codebooks is 2"),
    "rate": ({"sample_rate": 0, "frame_rate": [0, 1]}, "sample_rate is 0"),
    "frame rate": ({"frame_rate": [50, 1]}, "frame_rate is"),
    "format": ({"format": "codecvq.tokens/9"}, "format is 'codecvq.tokens/9'"),
    "unknown": ({"extra": 1}, "extra is not a key"),
    "hash": ({"codebooks_sha256": "abc"}, "codebooks_sha256 is 'abc'"),
    "digits": ({"sample_rate": 10**400}, "400|64 bits"),
    "nan": ({"sample_rate": math.nan}, "NaN"),
    "nul": ({"codec": "a\0b"}, "NUL"),
    "surrogate": ({"codec": "\ud800"}, "surrogate"),
    "path": ({"job": {"shards": {"../x": 1}}}, r"job\.shards"),
    "no shards": ({"job": {"shards": {"train": 0}}}, r"job\.shards\.train is 0"),
    "list": ({"job": []}, "job is"),
    "key": ({"job": {"shard_seconds": None}}, "job.shard_seconds is None"),
}


@pytest.mark.parametrize("case", BROKEN_CARDS)
def test_errors_in_codec_json_are_named(dataset, case):
    changes, message = BROKEN_CARDS[case]
    path = dataset / "codec.json"
    fields = json.loads(path.read_text())
    for key, value in changes.items():
        fields[key] = {**fields[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not ...}))
    for read in (read_tokens, check, read_card):
        with pytest.raises(TokensError, match=f"codec.json.*{message}"):
            read(dataset)


def test_a_card_with_too_many_shards_is_rejected_quickly(dataset):
    path = dataset / "codec.json"
    fields = json.loads(path.read_text())
    fields["job"]["shards"] = {"train": 10**9}
    path.write_text(json.dumps(fields))
    began = time.monotonic()
    with pytest.raises(TokensError, match="1000000000 of 1000000000 shards are missing"):
        read_tokens(dataset)
    assert len(check(dataset).problems) == 1
    assert time.monotonic() - began < 1


class FaultyCodec(LevelCodec):
    """Returns changed codes for clips of 1280 samples."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def encode(self, wav, *arguments, **keywords):
        codes = super().encode(wav, *arguments, **keywords)
        return self.change(codes) if wav.shape[-1] == HOP * 8 else codes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda codes: codes.float() + 0.5, "type float32"),
        (lambda codes: -codes - 1, "outside the 256 entries"),
        (lambda codes: codes + 256, "outside the 256 entries"),
        (lambda codes: codes[:, :, :-1], r"shape \[2, 7\] for 1280 samples, not \[2, 8\]"),
        (lambda codes: codes[:, :1], "shape"),
    ],
    ids=["floats", "negative", "beyond", "short", "codebooks"],
)
def test_invalid_codes_of_a_codec_are_failures(tmp_path, change, message):
    clips = []
    for i, length in enumerate((HOP * 3, HOP * 8, HOP * 5)):
        path = tmp_path / "audio" / f"{i}.wav"
        write_audio(path, tone(length, i), RATE)
        clips.append(Clip(id=f"{i}", path=path))
    summary = tokenize(FaultyCodec(change), clips, tmp_path / "t", batch_seconds=0.001)
    assert [failure.id for failure in summary.failures] == ["1"]
    assert re.search(message, summary.failures[0].error)
    assert check(tmp_path / "t").problems == ()
    assert read_tokens(tmp_path / "t").ids == ["0", "2"]


def test_long_shards_have_several_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("codecvq.tokens.shard.GROUP_CODES", 20)
    clips = []
    for i, frames in enumerate((3, 4, 9, 1, 30, 2)):
        path = tmp_path / "audio" / f"{i}.wav"
        write_audio(path, tone(HOP * frames, i), RATE)
        clips.append(
            Clip(id=f"{i}", path=path, columns={"tags": [] if i % 2 else ["a", None], "x": {"y": i}})
        )
    tokenize(LevelCodec(), clips, tmp_path / "t")
    dataset = read_tokens(tmp_path / "t")
    assert dataset.shards[0].group_sizes == [2, 2, 1, 1]
    assert [dataset[f"{i}"].num_frames for i in (5, 2, 0, 4)] == [2, 9, 3, 30]
    assert dataset["4"].columns == {"tags": ["a", None], "x": {"y": 4}}
    assert check(tmp_path / "t").problems == ()


def test_detokenize_reports_failures_and_continues(dataset, tmp_path, monkeypatch):
    class PartlyFailing(LevelCodec):
        def decode(self, codes, num_samples=None, lengths=None):
            if codes.shape[2] == 3:
                raise RuntimeError("a kernel failed\non two lines")
            return super().decode(codes, num_samples, lengths)

    (tmp_path / "out" / "clip3.flac").mkdir(parents=True)
    progress = []
    decoded = detokenize(
        PartlyFailing(), dataset, tmp_path / "out", progress=lambda *counts: progress.append(counts)
    )
    assert [failure.id for failure in decoded.failures] == ["clip1", "clip3"]
    assert decoded.failures[0].error == "RuntimeError: a kernel failed on two lines"
    assert [path.stem for path in decoded.files] == ["clip0", "clip2", "clip4", "clip5"]
    assert progress[-1] == (6, 6)
    with pytest.raises(TokensError, match=r"no clip 'clip9'"):
        detokenize(PartlyFailing(), dataset, tmp_path / "other", ids=["clip0", "clip9"])
    with pytest.raises(TokensError, match=r"suffix is '\.exe'"):
        detokenize(PartlyFailing(), dataset, tmp_path / "other", suffix=".exe")
    assert not (tmp_path / "other").exists()

    def full(path, *arguments, **options):
        if path.stem == "clip2":
            raise OSError(28, "No space left on device", str(path))
        return audio_file(path, *arguments, **options)

    monkeypatch.setattr("codecvq.tokens.decoding.audio_file", full)
    decoded = detokenize(LevelCodec(), dataset, tmp_path / "out")
    assert "No space left" in decoded.stopped
    assert (len(decoded.files), len(decoded.failures), decoded.not_tried) == (2, 1, 3)


def test_a_damaged_row_group_is_one_failure(dataset, tmp_path):
    data = bytearray((dataset / SHARD).read_bytes())
    chunk = pq.ParquetFile(dataset / SHARD).metadata.row_group(0).column(1)
    data[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    (dataset / SHARD).write_bytes(data)
    decoded = detokenize(LevelCodec(), dataset, tmp_path / "out")
    assert decoded.files == ()
    assert [failure.id for failure in decoded.failures] == ["train-00000-of-00001.parquet, row group 0"]
    decoded = detokenize(LevelCodec(), dataset, tmp_path / "out", ids=["clip1", "clip1", "clip2"])
    assert [failure.id for failure in decoded.failures] == ["clip1", "clip2"]


def test_jobs_with_earlier_hashes_can_resume(written, tmp_path):
    """A codec also matches its hashes of an earlier format, so its job resumes."""

    class Rehashed(LevelCodec):
        def __init__(self):
            super().__init__()
            self.earlier = (self.codebooks_sha256, self.weights_sha256)
            self._codebooks = self._weights = "the same codec with hashes of another format"

        def matches_codebooks(self, digest):
            return digest in self.earlier or super().matches_codebooks(digest)

        def matches_weights(self, digest):
            return digest in self.earlier or super().matches_weights(digest)

    write_audio(tmp_path / "a.wav", tone(2000, 1), RATE)
    clips = [Clip(id=f"{i}", path=tmp_path / "a.wav") for i in range(2)]
    tokenize(LevelCodec(), clips, tmp_path / "t", shard_clips=1, shard=(0, 2))
    assert tokenize(Rehashed(), clips, tmp_path / "t", shard_clips=1).complete
    assert check(tmp_path / "t").problems == ()
    assert len({replace(row, columns={}).num_frames for row in read_tokens(tmp_path / "t")}) == 1


@pytest.mark.parametrize("error", [TypeError, KeyError, MemoryError, ZeroDivisionError])
def test_exceptions_of_a_codec_are_failures_of_the_clip(tmp_path, error):
    def fail(codes):
        raise error("from the codec")

    clips = []
    for i, length in enumerate((HOP * 3, HOP * 8)):
        write_audio(tmp_path / f"{i}.wav", tone(length, i), RATE)
        clips.append(Clip(id=f"{i}", path=tmp_path / f"{i}.wav"))
    summary = tokenize(FaultyCodec(fail), clips, tmp_path / "t")
    assert [(failure.id, summary.clips) for failure in summary.failures] == [("1", 1)]
    assert "from the codec" in summary.failures[0].error


@pytest.mark.parametrize(
    ("name", "value"), [("name", "a\0"), ("quantizer_info", {"x": {1}}), ("codebooks_sha256", "abc")]
)
def test_a_codec_with_invalid_metadata_raises_before_the_first_clip(tmp_path, name, value):
    codec = type("Odd", (LevelCodec,), {name: property(lambda _: value, lambda *_: None)})()
    with pytest.raises(TokensError, match=r"cannot be stored in codec\.json"):
        tokenize(codec, [Clip(id="a", path=tmp_path)], tmp_path / "t")
    assert not (tmp_path / "t").exists()

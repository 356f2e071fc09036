"""Token datasets: rows, order, failures, resuming, detokenization, and reading with Hugging Face datasets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from small_codecs import HOP, RATE, LevelCodec

from codecvq.audio import read_audio, write_audio
from codecvq.data.corpus import Clip, Corpus
from codecvq.errors import AudioError, TokensError
from codecvq.tokens import check, detokenize, read_card, read_tokens, tokenize


def tone(samples, seed):
    """0.5 sin(2 pi f t), with f between 3 and 40 Hz depending on the seed."""
    return 0.5 * np.sin(2 * np.pi * (3 + seed * 7 % 37) * np.arange(samples) / RATE).astype(np.float32)


@pytest.fixture
def clips(tmp_path):
    """Ten WAV clips whose lengths are edge cases. The last one is in the test split."""
    lengths = [1, HOP - 1, HOP, HOP + 1, 3 * HOP, 1234, 777, 2000, 5000, 4001]
    made = []
    for i, length in enumerate(lengths):
        path = tmp_path / "audio" / f"{i}.wav"
        write_audio(path, tone(length, i), RATE)
        made.append(
            Clip(id=f"set/clip{i}", path=path, duration_s=length / RATE, split="test" if i == 9 else "")
        )
    return made


def encode_alone(codec, clip):
    """Codes of a clip without a batch: the slow reference."""
    wav = torch.from_numpy(clip.read(RATE))[None, None]
    return codec.encode(wav)[0].numpy()


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".lock-")
    }


def test_rows_equal_the_codes_of_each_clip_in_order(tmp_path, clips):
    codec = LevelCodec()
    summary = tokenize(codec, clips, tmp_path / "t", shard_clips=4, batch_seconds=0.5)
    assert summary.complete
    assert (summary.clips, summary.shards_written, summary.failures) == (10, 4, ())
    assert summary.audio_s == pytest.approx(sum(clip.duration_s for clip in clips))
    dataset = read_tokens(tmp_path / "t")
    assert len(dataset) == 10
    assert dataset.splits == ("train", "test")
    assert dataset.ids == [clip.id for clip in clips]
    for clip, row in zip(clips, dataset, strict=True):
        assert row.id == clip.id
        assert row.codes.dtype == np.uint16
        assert np.array_equal(row.codes, encode_alone(codec, clip))
        assert row.num_samples == round(clip.duration_s * RATE)
        assert row.source == {"path": str(clip.path), "start_s": 0.0}
    assert np.array_equal(dataset["set/clip5"].codes, encode_alone(codec, clips[5]))
    assert [row.id for row in dataset.split("test")] == ["set/clip9"]
    with pytest.raises(TokensError, match=r"no clip 'set/clip55'.*Did you mean 'set/clip5'"):
        dataset["set/clip55"]
    assert check(tmp_path / "t").problems == ()


def test_batches_including_padding_are_within_batch_seconds(tmp_path, clips):
    codec = LevelCodec()
    tokenize(codec, clips, tmp_path / "t", batch_seconds=0.4)
    sizes = [(count, count * length / RATE) for count, _, length in codec.batches]
    assert sum(count for count, _ in sizes) == 10
    assert all(seconds <= 0.4 or count == 1 for count, seconds in sizes)
    assert max(count for count, _ in sizes) > 1


def test_files_schema_card_and_statistics_of_a_dataset(tmp_path, clips):
    folder = tmp_path / "t"
    tokenize(LevelCodec(), clips, folder, num_codebooks=1)
    files = [
        "README.md",
        "codec.json",
        "data/test-00000-of-00001.parquet",
        "data/train-00000-of-00001.parquet",
    ]
    assert sorted(contents(folder)) == [*files, "failures.jsonl", "stats.json"]
    file = pq.ParquetFile(folder / files[3])
    columns = ["id", "codes", "num_frames", "num_samples", "sample_rate", "source", "codec"]
    assert file.schema_arrow.names == columns
    assert str(file.schema_arrow.field("codes").type) in {
        "list<item: list<item: uint16>>",
        "list<element: list<element: uint16>>",
    }
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    card = json.loads((folder / "codec.json").read_text())
    assert json.loads(file.schema_arrow.metadata[b"codecvq.codec"]) == card
    assert card["frame_rate"] == [100, 1]
    assert card["codebook_sizes"] == [256]
    assert card["quantizer"]["plugin"] == "small_codecs"
    stats = json.loads((folder / "stats.json").read_text())
    codes = np.concatenate([row.codes[0] for row in read_tokens(folder)])
    assert stats["splits"] == {"train": 9, "test": 1}
    assert stats["frames"] == stats["tokens"] == len(codes)
    assert stats["nominal_bps"] == 800
    shares = np.bincount(codes)[np.bincount(codes) > 0] / len(codes)
    assert stats["codebooks"][0]["used"] == len(shares)
    assert stats["entropy_bps"] == pytest.approx(-100 * (shares * np.log2(shares)).sum())
    assert stats["codebooks"][0]["histogram"] == np.bincount(codes, minlength=256).tolist()


@pytest.mark.parametrize(
    ("size", "dtype"), [(2**16, np.uint16), (2**16 + 1, np.uint32), (2**32 + 1, np.uint64)]
)
def test_large_codebooks_use_wider_integers(tmp_path, clips, size, dtype):
    codec = LevelCodec((size, 256))
    tokenize(codec, clips[:3], tmp_path / "t")
    for clip, row in zip(clips, read_tokens(tmp_path / "t"), strict=False):
        assert row.codes.dtype == dtype
        assert np.array_equal(row.codes, encode_alone(codec, clip))
    assert check(tmp_path / "t").problems == ()


def test_manifest_columns_are_stored_unchanged(tmp_path, clips):
    columns = [{"age": 30 + i, "snr": i / 3, "note": "ä", "words": ["a", "b"][: i % 3]} for i in range(10)]
    clips_with_columns = [
        Clip(
            id=c.id,
            path=c.path,
            text="hello" if i else "",
            speaker=f"s{i}",
            language="en-GB",
            columns=columns[i],
        )
        for i, c in enumerate(clips)
    ]
    tokenize(LevelCodec(), clips_with_columns, tmp_path / "t", shard_clips=1)
    for i, row in enumerate(read_tokens(tmp_path / "t")):
        fields = {"speaker": f"s{i}", "language": "en-GB", "text": "hello" if i else None}
        assert row.columns == {**columns[i], **fields}
        assert type(row.columns["age"]) is int
    assert 'language:\n- "en"\n' in (tmp_path / "t" / "README.md").read_text()


@pytest.mark.parametrize(
    ("columns", "message"),
    [([{"codes": 1}], "'codes'.*source_codes"), ([{"x": 1}, {"x": "one"}], "'x' mixes types")],
    ids=["clash", "mixed"],
)
def test_columns_that_cannot_be_stored_raise(tmp_path, clips, columns, message):
    bad = [Clip(id=c.id, path=c.path, columns=values) for c, values in zip(clips, columns, strict=False)]
    with pytest.raises(TokensError, match=message):
        tokenize(LevelCodec(), bad, tmp_path / "t")
    assert not (tmp_path / "t").exists()


class Broken(Clip):
    def read_blocks(self, sample_rate):
        raise AudioError(f"{self.path} is not audio.\nAt all.")


class NotANumber(Clip):
    def read_blocks(self, sample_rate):
        yield np.full(400, np.nan, dtype=np.float32)


def test_failing_clips_are_reported_and_the_others_are_tokenized(tmp_path, clips):
    codec, folder = LevelCodec(), tmp_path / "t"
    bad = [
        Broken(id="broken", path=Path("no.wav")),
        NotANumber(id="nan", path=Path("nan.wav"), duration_s=0.025),
    ]
    summary = tokenize(codec, [bad[0], *clips[:5], bad[1], *clips[5:]], folder, shard_clips=3)
    assert [failure.id for failure in summary.failures] == ["broken", "nan"]
    lines = [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]
    assert lines == [
        {"id": "broken", "source": "no.wav", "error": "no.wav is not audio. At all."},
        {"id": "nan", "source": "nan.wav", "error": "samples of item 0 are NaN or infinite at index 0."},
    ]
    dataset = read_tokens(folder)
    assert dataset.ids == [clip.id for clip in clips]
    assert all(np.array_equal(dataset[clip.id].codes, encode_alone(codec, clip)) for clip in clips)
    assert check(folder).failures == 2
    assert check(folder).problems == ()
    assert json.loads((folder / "stats.json").read_text())["failures"] == 2


def test_a_job_without_usable_clips_raises(tmp_path, clips):
    with pytest.raises(TokensError, match="no clips"):
        tokenize(LevelCodec(), [], tmp_path / "t")
    with pytest.raises(TokensError, match="none of the 1 clips"):
        tokenize(LevelCodec(), [Broken(id="b", path=Path("b.wav"))], tmp_path / "t")
    with pytest.raises(TokensError, match="two clips have the id 'set/clip0'"):
        tokenize(LevelCodec(), [clips[0], clips[0]], tmp_path / "u")


def test_a_second_run_writes_only_missing_shards(tmp_path, clips):
    codec, folder = LevelCodec(), tmp_path / "t"
    tokenize(codec, clips, folder, shard_clips=3)
    before = contents(folder)
    codec.batches.clear()
    summary = tokenize(codec, clips, folder, shard_clips=3)
    assert (summary.shards_written, summary.shards_skipped, codec.batches) == (0, 4, [])
    (folder / "data" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(TokensError, match=r"1 of 4 shards are missing.*train-00001"):
        read_tokens(folder)
    assert len(check(folder).problems) == 1
    assert tokenize(codec, clips, folder, shard_clips=3).shards_written == 1
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("codec", "keywords", "count", "message"),
    [
        (LevelCodec(name="other"), {}, 10, "codebooks"),
        (LevelCodec(weights="b"), {}, 10, "codec weights"),
        (LevelCodec(), {"num_codebooks": 1}, 10, "number of codebooks is 2, but now it is 1"),
        (LevelCodec(), {}, 9, "number of clips is 10, but now it is 9"),
        (LevelCodec(), {"shard_clips": 5}, 10, "shard_clips"),
    ],
    ids=["codec", "weights", "codebooks", "clips", "shards"],
)
def test_a_folder_of_another_job_raises(tmp_path, clips, codec, keywords, count, message):
    tokenize(LevelCodec(), clips, tmp_path / "t")
    before = contents(tmp_path / "t")
    with pytest.raises(TokensError, match=message):
        tokenize(codec, clips[:count], tmp_path / "t", **keywords)
    assert contents(tmp_path / "t") == before


def test_shards_can_be_written_by_several_processes(tmp_path, clips):
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    tokenize(LevelCodec(), clips, whole, shard_clips=2)
    parts = [tokenize(LevelCodec(), clips, shared, shard_clips=2, shard=(i, 3)) for i in range(3)]
    assert [part.complete for part in parts] == [False, False, True]
    assert sum(part.shards_written for part in parts) == 6
    assert contents(shared) == contents(whole)
    with pytest.raises(TokensError, match="shard is 3/3"):
        tokenize(LevelCodec(), clips, shared, shard=(3, 3))


def test_progress_counts_every_clip(tmp_path, clips):
    reports = []
    tokenize(LevelCodec(), clips, tmp_path / "t", shard_clips=3, progress=reports.append)
    assert reports[-1].clips_done == reports[-1].clips_total == 10
    assert [report.clips_done for report in reports] == sorted(report.clips_done for report in reports)
    tokenize(LevelCodec(), clips, tmp_path / "t", shard_clips=3, progress=reports.append)
    assert reports[-1].clips_done == 10
    assert reports[-1].audio_s == 0


def test_dataset_splits_equal_the_corpus_splits(tmp_path, clips):
    corpus = Corpus("c", tuple(clips))
    tokenize(LevelCodec(), corpus, tmp_path / "t")
    dataset = read_tokens(tmp_path / "t")
    for name in dataset.splits:
        assert [row.id for row in dataset.split(name)] == [clip.id for clip in corpus.split(name)]


@pytest.mark.parametrize("suffix", [".flac", ".wav"])
def test_detokenize_writes_audio_of_the_original_length(tmp_path, clips, suffix):
    codec = LevelCodec()
    tokenize(codec, clips, tmp_path / "t")
    decoded = detokenize(codec, tmp_path / "t", tmp_path / "out", suffix=suffix)
    assert len(decoded.files) == 10
    for clip in clips:
        audio = read_audio(tmp_path / "out" / f"{clip.id}{suffix}")
        assert audio.samples.shape == (1, round(clip.duration_s * RATE))
        frames = torch.from_numpy(clip.read(RATE))
        expected = codec.decode(codec.encode(frames[None, None]), num_samples=len(frames))[0]
        assert np.abs(audio.samples - expected.numpy()).max() <= 1 / 32768
    some = detokenize(codec, tmp_path / "t", tmp_path / "some", ids=["set/clip3"])
    assert some.files == (tmp_path / "some" / "set" / "clip3.flac",)


def test_detokenize_with_another_codec_raises(tmp_path, clips):
    ours, other = LevelCodec(), LevelCodec(name="other")
    tokenize(ours, clips, tmp_path / "t")
    with pytest.raises(
        TokensError, match=f"{ours.codebooks_sha256[:12]}.*'other'.*{other.codebooks_sha256[:12]}"
    ):
        detokenize(other, tmp_path / "t", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.warns(UserWarning, match="weights"):
        detokenize(LevelCodec(weights="b"), tmp_path / "t", tmp_path / "out", ids=["set/clip0"])


def test_ids_cannot_leave_the_output_folder(tmp_path, clips):
    paths = [Clip(id=id, path=clips[4].path) for id in ("../../a", "/b", "c:d")]
    tokenize(LevelCodec(), paths, tmp_path / "t")
    out = tmp_path / "deep" / "er" / "out"
    files = detokenize(LevelCodec(), tmp_path / "t", out).files
    assert all(path.resolve().is_relative_to(out) for path in files)
    assert len({*files}) == len(paths)


def test_damaged_shards_are_detected(tmp_path, clips):
    folder = tmp_path / "t"
    tokenize(LevelCodec(), clips, folder, shard_clips=3)
    first, second = (
        folder / "data" / "train-00000-of-00003.parquet",
        folder / "data" / "train-00001-of-00003.parquet",
    )
    original = first.read_bytes()
    first.write_bytes(original[: len(original) // 2])
    with pytest.raises(TokensError, match=r"train-00000-of-00003\.parquet is damaged"):
        read_tokens(folder)
    first.write_bytes(second.read_bytes())
    problems = "\n".join(check(folder).problems)
    assert "clip 'set/clip3' occurs twice" in problems
    first.write_bytes(original)
    tokenize(LevelCodec(name="other"), clips, tmp_path / "other", shard_clips=3)
    second.write_bytes((tmp_path / "other" / "data" / second.name).read_bytes())
    with pytest.raises(TokensError, match="codec 'other'"):
        read_tokens(folder)
    (folder / "codec.json").write_text("{}")
    with pytest.raises(TokensError, match=r"codec\.json: format is 'None'"):
        read_card(folder)
    with pytest.raises(TokensError, match="not a token dataset"):
        check(tmp_path)


def test_hugging_face_datasets_load_the_folder(tmp_path, clips, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "t"
    broken = [
        Broken(id="b", path=Path("no.wav")),
        Broken(id="v", path=Path("no.wav"), split="validation"),
    ]  # no rows
    clips_with_text = [Clip(id=c.id, path=c.path, split=c.split, text="a", columns={"n": 1}) for c in clips]
    tokenize(LevelCodec(), [*clips_with_text, *broken], folder, shard_clips=3)
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 9, "test": 1}
    for ours, theirs in zip(read_tokens(folder).split("train"), loaded["train"], strict=True):
        assert theirs["codes"] == ours.codes.tolist()
        assert (theirs["id"], theirs["num_samples"], theirs["text"], theirs["n"]) == (
            ours.id,
            ours.num_samples,
            "a",
            1,
        )

"""Checks before the first clip: storable columns, splits, failures of the corpus and invalid UTF-8."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from small_codecs import RATE, LevelCodec
from test_tokens import tone

from codecvq.audio import write_audio
from codecvq.data.corpus import Clip, ClipFailure, Corpus, open_corpus
from codecvq.errors import TokensError
from codecvq.tokens import check, columns, detokenize, read_tokens, tokenize


@pytest.fixture
def wav(tmp_path):
    write_audio(tmp_path / "a.wav", tone(2000, 1), RATE)
    return tmp_path / "a.wav"


class Tone(Clip):
    """A clip without a file."""

    def read_blocks(self, sample_rate):
        yield tone(2000, 1)


def clips_with(wav, values):
    """A clip for each value, with the value in column `x`. `...` means no column."""
    return [
        Clip(id=f"clip{i}", path=wav, columns={} if value is ... else {"x": value})
        for i, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2, ..., "one"], r"'x' mixes types.*1 in clip 'clip0', but 'one' in clip 'clip3'"),
        ([..., None, ["a"], [1]], r"\['a'\] in clip 'clip2', but \[1\] in clip 'clip3'"),
        ([{"y": 1}, {"y": 2}, {"y": "z"}], r"\{'y': 1\} in clip 'clip0', but \{'y': 'z'\} in clip 'clip2'"),
        ([1, 0.5, 2**60 + 1], r"in clip 'clip2'"),
        ([1, 2**70], r"in clip 'clip1'"),
        ([{}, {}], "without a key"),
        ([[{"y": {}}]], "without a key"),
        ([b"a"], "values of type binary"),
        ([object()], "in clip 'clip0'"),
    ],
    ids=["text", "lists", "objects", "integer", "digits", "empty", "empty inside", "bytes", "object"],
)
def test_unstorable_values_name_the_clip_before_any_clip_is_read(tmp_path, wav, values, message):
    codec = LevelCodec()
    with pytest.raises(TokensError, match=message):
        tokenize(codec, clips_with(wav, values), tmp_path / "t")
    assert codec.batches == []
    assert not (tmp_path / "t").exists()


def test_columns_without_values_can_be_stored(tmp_path, wav):
    values = [[], {"y": None, "z": {"a": [None]}}, None]
    for i, value in enumerate(values):
        tokenize(LevelCodec(), clips_with(wav, [value, value]), tmp_path / f"{i}")
        assert [row.columns["x"] for row in read_tokens(tmp_path / f"{i}")] == [value, value]
        assert check(tmp_path / f"{i}").problems == ()


def test_too_many_columns_levels_and_characters_raise(tmp_path, wav):
    many = [Clip(id="a", path=wav, columns={f"c{i}": i for i in range(1001)})]
    with pytest.raises(TokensError, match="1001 columns; a token dataset has at most 1000"):
        tokenize(LevelCodec(), many, tmp_path / "t")
    deep = []
    for _ in range(500):
        deep = [deep]
    with pytest.raises(TokensError, match="clip 'clip0': 'x' is nested deeper than 20 levels"):
        tokenize(LevelCodec(), clips_with(wav, [deep]), tmp_path / "t")
    with pytest.raises(TokensError, match="clip 'clip0': 'x' has a text of 100001 characters"):
        tokenize(LevelCodec(), clips_with(wav, ["a" * 100_001]), tmp_path / "t")


@pytest.mark.parametrize("split", ["../x", "a/b", "", "a b", "a\nb", "..", "a" * 101], ids=range(7))
def test_invalid_split_names_raise(tmp_path, wav, split):
    clips = Corpus("c", (Clip(id="a", path=wav, split="train"),))
    object.__setattr__(clips, "split_of", lambda clip: split)
    with pytest.raises(TokensError, match="clip 'a' has the split"):
        tokenize(LevelCodec(), clips, tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_failures_of_the_corpus_are_failures_of_the_job(tmp_path, wav):
    manifest = tmp_path / "m.jsonl"
    rows = [{"audio": "gone.wav", "id": "gone"}, *({"audio": "a.wav", "id": f"a{i}"} for i in range(5))]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = open_corpus(manifest=manifest)
    assert len(corpus) == 5
    folder = tmp_path / "t"
    first = tokenize(LevelCodec(), corpus, folder, shard_clips=2, shard=(1, 2))
    assert (first.complete, first.failures) == (False, ())
    reports = []
    for _ in range(2):  # a second run reports the same
        summary = tokenize(LevelCodec(), corpus, folder, shard_clips=2, progress=reports.append)
        assert summary.complete
        assert [failure.id for failure in summary.failures] == ["gone"]
        assert reports[-1].clips_done == reports[-1].clips_total == 6
    lines = [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]
    assert [(line["id"], line["source"]) for line in lines] == [("gone", str(tmp_path / "gone.wav"))]
    assert "does not exist" in lines[0]["error"]
    result = check(folder)
    assert (result.rows, result.failures, result.problems) == (5, 1, ())
    assert json.loads((folder / "codec.json").read_text())["job"]["clips"] == 6
    with pytest.raises(TokensError, match="another job: its number of clips is 6, but now it is 5"):
        tokenize(LevelCodec(), corpus.clips, folder, shard_clips=2)


def test_invalid_unicode_is_stored_with_escapes(tmp_path, wav):
    clip = Tone(
        id="caf\udce9",
        path=tmp_path / os.fsdecode(b"caf\xe9.wav"),
        text="\ud800!",
        speaker="\udcff",
        columns={"note\udc80": [{"k\udc81": "v\udc82"}]},
    )
    failed = ClipFailure("gone\udc83", Path("gone\udc83"), "no file\ngone\udc83")
    corpus = Corpus("c", (clip, Clip(id="b", path=wav)), failures=(failed,))
    folder = tmp_path / "t"
    assert len(tokenize(LevelCodec(), corpus, folder).failures) == 1
    row = next(iter(read_tokens(folder)))
    assert row.id == clip.id == r"caf\xe9~0dabcef4"
    assert row.source["path"] == str(tmp_path / r"caf\xe9.wav")
    columns = {r"note\x80": [{r"k\x81": r"v\x82"}], "text": r"\ud800!", "speaker": r"\xff"}
    assert row.columns == columns
    assert read_tokens(folder).failures[0].id == failed.id
    assert r"no file gone\x83" in json.loads((folder / "failures.jsonl").read_text())["error"]
    decoded = detokenize(LevelCodec(), folder, tmp_path / "out")
    assert (len(decoded.files), decoded.failures) == (2, ())
    assert check(folder).problems == ()


def test_the_readme_contains_no_untrusted_markup(tmp_path, wav):
    clips = [Clip(id="a", path=wav, split="no", licence="<script>")]
    tokenize(LevelCodec(name="evil\n# [x](y)<b>"), clips, tmp_path / "t")
    text = (tmp_path / "t" / "README.md").read_text()
    assert "<script>" not in text
    assert "\n# [x]" not in text
    assert '  - split: "no"\n    path: "data/no-*.parquet"\n' in text


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2, 3, 4.5, None], "double"),
        ([None, None, "a", "b", None], "string"),
        ([{"a": 1}, {}, {"b": "x"}, None, {}], "struct<a: int64, b: string>"),
        ([[], [], [1], [], []], "list<item: int64>"),
        ([None] * 5, "string"),
    ],
    ids=repr,
)
def test_column_types_do_not_depend_on_the_block_size(monkeypatch, wav, values, kind):
    clips = clips_with(wav, values)
    assert str(columns.column_types(clips)["x"]) == kind
    monkeypatch.setattr(columns, "BLOCK_CLIPS", 2)
    assert str(columns.column_types(clips)["x"]) == kind


@pytest.mark.parametrize(
    "values", [[1, 2, "a", "b"], [True, True, 1, 2], [1, 2**53 + 1, 0.5, 1.5], [{}, {}, {}]], ids=repr
)
def test_mixed_column_types_raise_at_any_block_size(monkeypatch, wav, values):
    for block in (10, 2):
        monkeypatch.setattr(columns, "BLOCK_CLIPS", block)
        with pytest.raises(TokensError, match="column 'x'"):
            columns.column_types(clips_with(wav, values))

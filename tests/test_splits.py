"""Splits do not depend on the opened folder, and a run resumes with its recorded split."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codecvq.audio import write_audio
from codecvq.data.clip import Clip
from codecvq.data.corpus import SPLITS, Corpus, open_corpus, split_of
from codecvq.data.fingerprint import fingerprint
from codecvq.data.split_file import read_split, write_split
from codecvq.data.text import utf8_safe, utf8_safe_id
from codecvq.errors import CorpusError
from codecvq.evaluation.training_clips import training_clip_test
from codecvq.training import loop
from codecvq.training.recipe import load_recipe
from recipes import write_recipe

RATE = 8000


def noise(path: Path, seconds: float = 0.02) -> Path:
    """Noise with the file name as seed."""
    rng = np.random.default_rng(list(os.fsencode(path.name)))
    return write_audio(path, rng.normal(0, 0.1, round(seconds * RATE)), RATE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for language in ("it", "fr"):
        for n in range(60):
            noise(tmp_path / language / "wavs" / f"{language}{n}.wav")
    return tmp_path


def test_splits_do_not_depend_on_the_opened_folder(folder: Path) -> None:
    above, inside = open_corpus(folder=folder), open_corpus(folder=folder / "it" / "wavs")
    by_path = {clip.path: above.split_of(clip) for clip in above}
    assert {clip.path: inside.split_of(clip) for clip in inside}.items() <= by_path.items()
    assert set(by_path.values()) == set(SPLITS)
    assert {clip.id for clip in inside} == {f"it{n}" for n in range(60)}
    (folder / "m.jsonl").write_text("".join(json.dumps({"path": str(path)}) + "\n" for path in by_path))
    listed = open_corpus(manifest=folder / "m.jsonl")
    assert {clip.path: listed.split_of(clip) for clip in listed} == by_path


def test_copies_of_a_file_are_in_one_split(tmp_path: Path) -> None:
    for n in range(40):
        noise(tmp_path / f"{n}.wav")
        (tmp_path / f"copy of {n}.wav").write_bytes((tmp_path / f"{n}.wav").read_bytes())
    corpus = open_corpus(folder=tmp_path)
    splits = {clip.id: corpus.split_of(clip) for clip in corpus}
    assert all(splits[f"copy of {n}"] == splits[str(n)] for n in range(40))


def test_splits_of_manifest_clips_depend_on_ids_and_parts(tmp_path: Path) -> None:
    noise(tmp_path / "a.wav", 2.0)
    rows = [{"path": "a.wav", "id": f"clip-{n}", "start": n / 100, "duration": 0.01} for n in range(50)]
    (tmp_path / "ids.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = open_corpus(manifest=tmp_path / "ids.jsonl")
    assert [corpus.split_of(clip) for clip in corpus] == [split_of(clip.id) for clip in corpus]
    (tmp_path / "parts.jsonl").write_text(
        "".join(
            json.dumps({"path": "a.wav", "start": n / 100, "end": (n + 1) / 100}) + "\n" for n in range(100)
        )
    )
    corpus = open_corpus(manifest=tmp_path / "parts.jsonl")
    assert {corpus.split_of(clip) for clip in corpus} == set(SPLITS)


def test_splits_of_the_bundled_corpus_are_fixed() -> None:
    prompts = open_corpus("prompts")
    assert [len(prompts.split(split)) for split in SPLITS] == [113, 16, 24]
    assert not any(clip.split_key for clip in prompts)


def test_fingerprints_differ_for_files_that_differ_at_any_position(tmp_path: Path) -> None:
    content = bytes(20000)
    (tmp_path / "a").write_bytes(content)
    for offset in (0, 10000, 19999):
        (tmp_path / "b").write_bytes(content[:offset] + b"x" + content[offset + 1 :])
        assert fingerprint(tmp_path / "b") != fingerprint(tmp_path / "a")
    (tmp_path / "b").write_bytes(content + b"\0")
    assert fingerprint(tmp_path / "b") != fingerprint(tmp_path / "a")
    (tmp_path / "b").write_bytes(content)
    assert fingerprint(tmp_path / "b") == fingerprint(tmp_path / "a")
    (tmp_path / "b").write_bytes(b"x")
    assert len(fingerprint(tmp_path / "b")) == 32


# The split of a run


def test_a_recorded_split_takes_precedence_and_logs_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = open_corpus(folder=folder / "it" / "wavs")
    file = write_split(corpus, folder / "split.jsonl")
    assert read_split(file).apply(corpus) == corpus
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows[:7]:  # like a file of an older version
        row["split"] = "validation" if row["split"] == "test" else "test"
        del row["audio"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:30]))
    with caplog.at_level(logging.WARNING):
        resumed = read_split(file).apply(corpus)
    assert [resumed.split_of(clip) for clip in resumed][:30] == [row["split"] for row in rows[:30]]
    assert [resumed.split_of(clip) for clip in resumed][30:] == [corpus.split_of(clip) for clip in corpus][
        30:
    ]
    assert "7 of 60 clips of corpus wavs would be in another split now" in caplog.text


def test_a_run_resumes_with_its_recorded_split(tmp_path: Path) -> None:
    for n in range(40):
        noise(tmp_path / "audio" / f"{n}.wav", 0.3)
    corpus = {"name": None, "folder": str(tmp_path / "audio")}
    recipe = load_recipe(
        write_recipe(
            tmp_path / "tiny.yaml", corpus=corpus, training={"steps": 1, "keep_best": "validation/mel"}
        )
    )
    loop.train(recipe, tmp_path / "run")
    file = tmp_path / "run" / "split.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    old = [{"id": row["id"], "split": split_of(row["id"]), "speaker": "", "duration": 0.3} for row in rows]
    assert [row["split"] for row in old] != [row["split"] for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in old))  # like a file of an older version
    loop.train(recipe, tmp_path / "run")
    again = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["split"] for row in again] == [row["split"] for row in old]
    assert all(row["audio"] for row in again)


def test_split_of_recording_recognizes_renamed_files_and_parts(tmp_path: Path) -> None:
    for n in range(30):
        noise(tmp_path / "run" / f"{n}.wav", 0.1)
    corpus = open_corpus(folder=tmp_path / "run")
    recorded = read_split(write_split(corpus, tmp_path / "split.jsonl"))
    for clip in corpus:
        copy = tmp_path / "elsewhere" / f"renamed {clip.id}.wav"
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(clip.path.read_bytes())
        other = Clip(id="something else", path=copy)
        assert recorded.split_of_recording(other) == corpus.split_of(clip)
        part = replace(other, start_s=0.05, duration_s=0.01)
        assert recorded.split_of_recording(part) == corpus.split_of(clip)
    assert recorded.split_of_recording(Clip(id="1", path=noise(tmp_path / "new.wav", 0.1))) is None
    assert recorded.split_of_recording(Clip(id="1", path=tmp_path / "gone.wav")) is None


def test_a_recording_with_a_training_part_is_in_the_training_split(tmp_path: Path) -> None:
    path = noise(tmp_path / "a.wav", 1.0)
    clips = [
        Clip(id=split, path=path, split=split, start_s=n / 10, duration_s=0.1)
        for n, split in enumerate(SPLITS)
    ]
    recorded = read_split(write_split(Corpus("parts", tuple(clips)), tmp_path / "split.jsonl"))
    assert [recorded.split_of_recording(clip) for clip in clips] == list(SPLITS)
    assert recorded.split_of_recording(Clip(id="x", path=path)) == "train"


@pytest.mark.parametrize(
    "content", [b"{", b"[]\n", b'{"id": 1, "split": "test"}\n', b'{"id": "a", "split": "best"}\n', b"\xff\n"]
)
def test_a_damaged_split_file_raises_with_instructions(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "split.jsonl").write_bytes(content)
    with pytest.raises(CorpusError, match=r"split\.jsonl.*delete it to split the clips again"):
        read_split(tmp_path / "split.jsonl")


# Names that are not valid UTF-8


def test_ids_of_undecodable_file_names_are_valid_and_distinct(tmp_path: Path) -> None:
    for name in (b"caf\xe9.wav", b"caf\xe8.wav", "café.wav".encode()):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        path.write_bytes(noise(tmp_path / "x.wav").read_bytes())
    (tmp_path / "x.wav").unlink()
    corpus = open_corpus(folder=tmp_path)
    ids = [clip.id for clip in corpus]
    assert len(set(ids)) == 3
    assert ids[-1] == "café" or "café" in ids
    assert sorted(id_.partition("~")[0] for id_ in ids) == ["caf\\xe8", "caf\\xe9", "café"]
    assert all(clip.read(RATE).size for clip in corpus)
    rows = [
        json.loads(line) for line in write_split(corpus, tmp_path / "split.jsonl").read_text().splitlines()
    ]
    assert [row["id"] for row in rows] == ids


def test_utf8_safe_escapes_only_invalid_text() -> None:
    assert utf8_safe("naïve 语") == "naïve 语"
    assert utf8_safe("a\udce9b\ud800\0") == "a\\xe9b\\ud800\\x00"
    assert utf8_safe_id("naïve") == "naïve"
    assert utf8_safe_id("a\udce9") != utf8_safe_id("a\\xe9")
    assert utf8_safe_id("a\udce9") == utf8_safe_id("a\udce9")
    clip = Clip(id="a\udce9", path=Path("a"), text="\ud800", speaker="\udcff")
    "".join((clip.id, clip.text, clip.speaker)).encode()


def test_training_clips_are_recognized_in_another_folder(tmp_path: Path) -> None:
    for n in range(40):
        noise(tmp_path / "speech" / "it" / f"{n}.wav")
    corpus = open_corpus(folder=tmp_path / "speech")
    write_split(corpus, tmp_path / "run" / "split.jsonl")
    is_training_clip = training_clip_test(tmp_path / "run" / "codec")
    assert is_training_clip is not None
    inside = open_corpus(folder=tmp_path / "speech" / "it")
    assert [clip.id for clip in inside] != [clip.id for clip in corpus]
    assert [is_training_clip(clip) for clip in inside] == [
        inside.split_of(clip) == "train" for clip in inside
    ]

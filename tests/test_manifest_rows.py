"""The columns of manifests: parts of files, channels, and unsupported columns."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codecvq.audio import write_audio
from codecvq.data.corpus import Corpus, open_corpus
from codecvq.errors import AudioError, CorpusError

RATE = 8000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two seconds of stereo: a ramp up, and one down with half the slope, so each sample is unique."""
    ramp = np.arange(1, 2 * RATE + 1) / 32768
    write_audio(tmp_path / "a.wav", np.stack([ramp, -ramp / 2]), RATE)
    return tmp_path


def opened(folder: Path, *rows: dict[str, Any], name: str = "m.jsonl") -> Corpus:
    if name.endswith(".csv"):
        columns = list(rows[0])
        lines = [",".join(columns), *(",".join(str(row[column]) for column in columns) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return open_corpus(manifest=folder / name)


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv"])
@pytest.mark.parametrize(
    "row",
    [
        {"start": 0.5, "duration": 1.0},
        {"start_s": 0.5, "end_s": 1.5},
        {"start_time": 0.5, "end_time": 1.5},
        {"begin": 0.5, "end": 1.5},
        {"start": 0.5, "stop": 1.5},
        {"offset": 0.5, "duration": 1.0},
        {"start": 0.5, "end": 1.5, "duration": 1.0},
    ],
    ids=lambda row: "-".join(row),
)
def test_every_spelling_of_a_part_gives_the_same_samples(
    folder: Path, row: dict[str, float], name: str
) -> None:
    whole = opened(folder, {"path": "a.wav"})[0].read(RATE)
    clip = opened(folder, {"path": "a.wav", **row}, name=name)[0]
    assert np.array_equal(clip.read(RATE), whole[RATE // 2 : 3 * RATE // 2])
    assert dict(clip.columns) == {}
    assert clip.id == "a@0.5"


def test_end_and_start_alone_select_the_beginning_and_the_rest(folder: Path) -> None:
    whole = opened(folder, {"path": "a.wav"})[0].read(RATE)
    first, last = opened(folder, {"path": "a.wav", "end": 0.5}, {"path": "a.wav", "begin": 1.5})
    assert np.array_equal(first.read(RATE), whole[: RATE // 2])
    assert np.array_equal(last.read(RATE), whole[3 * RATE // 2 :])


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"start": 1.0, "end": 0.5}, "ends at 0.5 s, which is not after its start at 1 s"),
        ({"start": 0.5, "end": 1.0, "duration": 2.0}, "contradict each other"),
        ({"start": 0.5, "offset": 1.0}, "start 0.5 and offset 1.0, which have the same meaning"),
        ({"end": "last"}, "end is 'last', but seconds from 0 up"),
        ({"start": True}, "start is True, but seconds"),
        ({"duration": "nan"}, "duration is 'nan', but seconds"),
        ({"start": 1e300}, "start is 1e+300, but seconds"),
        ({"start_ms": 500}, "'start_ms' is not supported. Give seconds as 'start'"),
        ({"end_ms": 500}, "'end_ms' is not supported"),
        ({"start_sample": 500}, "'start_sample' is not supported"),
        ({"channels": [0]}, "'channels' is not supported"),
        ({"channel": "left"}, "channel is 'left', but a channel number is needed"),
        ({"channel": -1}, "channel is -1, but"),
        ({"id": {"a": 1}}, "id is {'a': 1}, but text is needed"),
        ({"text": ["a"]}, "text is ['a'], but text is needed"),
        ({"path": ["a.wav", "b.wav"]}, "path is ['a.wav', 'b.wav'], but a path is needed"),
        ({"path": {"path": "a.wav", "bytes": "UklGRg=="}}, "audio embedded in a manifest is not supported"),
        ({"path": {"array": [0.0], "path": "a.wav"}}, "audio embedded in a manifest is not supported"),
    ],
    ids=str,
)
def test_contradictory_and_unsupported_columns_are_an_error_with_their_names(
    folder: Path, row: dict[str, Any], why: str
) -> None:
    with pytest.raises(CorpusError) as caught:
        opened(folder, {"path": "a.wav"}, {"path": "a.wav", **row})
    assert "line 2" in str(caught.value)
    assert why in str(caught.value)


def test_other_columns_are_preserved(folder: Path) -> None:
    others = {"channels": 2, "num_frames": 16000, "sampling_rate": 8000}
    assert dict(opened(folder, {"path": "a.wav", **others})[0].columns) == others


def test_the_hugging_face_audio_column_is_read_as_a_path(folder: Path) -> None:
    rows = [{"audio": {"path": "a.wav", "bytes": None}, "text": "x"}]
    clip = opened(folder, *rows)[0]
    assert (clip.id, clip.text) == ("a", "x")
    assert clip.read(RATE).size == 2 * RATE


def test_a_selected_channel_is_not_mixed_with_others(folder: Path) -> None:
    first, second, mix = opened(
        folder, {"path": "a.wav", "channel": 0}, {"path": "a.wav", "channel": "1"}, {"path": "a.wav"}
    )
    assert [clip.id for clip in (first, second, mix)] == ["a#0", "a#1", "a"]
    assert first.read(RATE)[99] == pytest.approx(100 / 32768)
    assert second.read(RATE)[99] == pytest.approx(-50 / 32768)
    assert mix.read(RATE)[99] == pytest.approx(25 / 32768)
    with pytest.raises(
        AudioError, match=r"has 2 channels, but clip a#2 selects channel 2 \(0 is the first\)"
    ):
        opened(folder, {"path": "a.wav", "channel": 2})[0].read(RATE)


def test_a_wrong_duration_gives_a_warning_and_does_not_change_the_clip(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(4):
        write_audio(folder / f"{n}.wav", np.zeros(2 * RATE), RATE)
    stated = [2.1, 2000, 0.5, 2]  # rounded, in milliseconds, too short, right
    corpus = opened(folder, *({"path": f"{n}.wav", "duration": told_s} for n, told_s in enumerate(stated)))
    with caplog.at_level(logging.WARNING):
        measured = corpus.measured()
    assert [clip.duration_s for clip in measured] == [2.1, 2.0, 2.0, 2.0]
    assert [clip.read(RATE).size for clip in measured] == [2 * RATE] * 4
    assert [record.getMessage() for record in caplog.records] == [
        "corpus m: 2 clips have wrong durations; the durations of their files are used. The first is 1: "
        "its stated duration is 2000 s, but its file has 2.000 s."
    ]
    assert measured.measured() is measured


def test_a_part_that_ends_after_its_file_is_a_failure(folder: Path) -> None:
    rows = [
        {"path": "a.wav", "start": 1.0, "duration": 1.05},  # rounded
        {"path": "a.wav", "start": 0.5, "duration": 1500},  # in milliseconds
        {"path": "a.wav", "start": 5.0},
    ]
    corpus = opened(folder, *rows)
    assert corpus[0].read(RATE).size == RATE
    with pytest.raises(
        AudioError, match=r"ends at 2\.000 s, but clip a@0\.5 is the part from 0\.5 to 1500\.5 s"
    ):
        corpus[1].read(RATE)
    measured = corpus.measured()
    assert [clip.id for clip in measured] == ["a@1"]
    assert [failure.id for failure in measured.failures] == ["a@0.5", "a@5"]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("https://host/a.wav", "does not exist (remote files are not downloaded)"),
        ("~nosuchuser/a.wav", "does not exist"),
        ("x" * 300 + ".wav", "cannot be opened"),
        (".", "not a regular file"),
        ("pipe.wav", "not a regular file"),
    ],
)
def test_rows_without_a_usable_file_are_failures_with_a_reason(folder: Path, path: str, why: str) -> None:
    import os

    os.mkfifo(folder / "pipe.wav")
    corpus = opened(folder, {"path": "a.wav"}, {"path": path, "id": "x"})
    assert [clip.id for clip in corpus] == ["a"]
    assert [failure.id for failure in corpus.failures] == ["x"]
    assert why in corpus.failures[0].error


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("m.csv", "path,text,text\na.wav,b,c\n", "two columns are named 'text'"),
        ("m.jsonl", '{"path": "a.wav", "x": ' + "[" * 10000 + "]" * 10000 + "}", "nested too deeply"),
        ("m.jsonl", '{"path": "a.wav", "x": ' + "9" * 5000 + "}", "does not fit in 64 bits"),
        ("m.jsonl", '{"path": "a.wav", "x": "\\ud800"}', "lone surrogate"),
        ("m.jsonl", '{"path": "a.wav", "path": "b.wav"}', "'path' occurs twice"),
    ],
    ids=["csv-twice", "deep", "digits", "surrogate", "key-twice"],
)
def test_malicious_manifests_give_a_one_line_error(folder: Path, name: str, content: str, why: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(CorpusError) as caught:
        open_corpus(manifest=folder / name)
    assert why in str(caught.value)


def test_paths_of_other_kinds_give_a_one_line_error(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "m.jsonl")
    with pytest.raises(CorpusError, match="not a regular file"):
        open_corpus(manifest=tmp_path / "m.jsonl")
    for kind in ("folder", "manifest"):
        with pytest.raises(CorpusError, match="nosuchuser"):
            open_corpus(**{kind: "~nosuchuser/x"})
        with pytest.raises(CorpusError):
            open_corpus(**{kind: "a\0b"})
        with pytest.raises(CorpusError):
            open_corpus(**{kind: "x" * 5000})

"""The loop and the exit codes of all commands that process many items."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer

from codecvq.audio import write_audio
from codecvq.cli.app import main
from codecvq.cli.batch import BatchResult, ItemFailure, run_batch
from codecvq.cli.coding import _file_tasks
from codecvq.codec import Codec, load
from codecvq.data.corpus import open_corpus
from codecvq.errors import AudioError
from codecvq.evaluation import Evaluation, compare, evaluate, write_report

SOUND = 0.1 * np.sin(np.arange(1600) / 9)


def do(item: Any) -> dict[str, Any]:
    if isinstance(item, Exception):
        raise item
    return {"did": item}


def test_every_failure_is_listed_in_one_line_and_the_loop_continues() -> None:
    items = [1, AudioError("x.wav is no audio"), RuntimeError("two\nlines"), MemoryError(), KeyError("k"), 2]
    done, outcome = run_batch(items, do, lambda item: f"item {items.index(item)}")
    assert done == [{"did": 1}, {"did": 2}]
    assert (outcome.done, outcome.failed, outcome.exit_code, outcome.stopped) == (2, 4, 1, "")
    assert [failure.source for failure in outcome.failures] == [f"item {i}" for i in (1, 2, 3, 4)]
    assert [failure.error for failure in outcome.failures] == [
        "x.wav is no audio",
        "RuntimeError: two lines",
        "out of memory (MemoryError)",
        "KeyError: 'k'",
    ]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_full_disk_ends_the_loop_and_keeps_finished_items(number: int) -> None:
    items = [1, OSError(number, "no more", "out/x"), 2, 3]
    done, outcome = run_batch(items, do, str)
    assert done == [{"did": 1}]
    assert (outcome.done, outcome.failed, outcome.not_tried, outcome.exit_code) == (1, 3, 2, 1)
    assert outcome.stopped == "out/x: no more"


def test_an_interrupt_is_not_a_failure_of_an_item() -> None:
    def interrupted(item: int) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_batch([1, 2], interrupted, str)


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (BatchResult(3), 0),
        (BatchResult(0), 0),
        (BatchResult(3, (ItemFailure("a", "b"),)), 1),
        (BatchResult(0, (ItemFailure("a", "b"),)), 2),
        (BatchResult(1, (), not_tried=2, stopped="full"), 1),
    ],
)
def test_exit_codes_depend_on_finished_and_failed_items(outcome: BatchResult, code: int) -> None:
    assert outcome.exit_code == code
    assert set(outcome.to_json()) == {"done", "failed", "failures", "stopped"}
    if code:
        with pytest.raises(typer.Exit) as leaving:
            outcome.exit_if_failed()
        assert leaving.value.exit_code == code


# output paths


def tasks_of(
    tmp_path: Path, *names: str, given: list[str] | None = None
) -> tuple[list[str], list[ItemFailure]]:
    """Names of the results for files `names`. They are passed one by one, or as the inputs `given`."""
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    out = tmp_path / "out"
    inputs = [tmp_path / name for name in given or names]
    works, failures = _file_tasks(inputs, lambda folder: sorted(p for p in folder.rglob("*.*")), out, ".cvq")
    return [work.target.relative_to(out).as_posix() for work in works], failures


def test_the_second_file_with_the_same_result_is_a_failure(tmp_path: Path) -> None:
    names, failures = tasks_of(tmp_path, "s1/a.wav", "s2/a.wav", "s2/b.wav")
    assert names == ["a.cvq", "b.cvq"]
    assert [Path(failure.source).parts[-2:] for failure in failures] == [("s2", "a.wav")]
    assert "would both be written to" in failures[0].error


def test_files_that_differ_only_in_their_suffix_get_different_results(tmp_path: Path) -> None:
    assert tasks_of(tmp_path, "in/a.mp3", "in/a.wav", given=["in"]) == (["a.cvq", "a.wav.cvq"], [])


def test_a_file_that_is_given_twice_is_processed_once(tmp_path: Path) -> None:
    assert tasks_of(tmp_path, "in/a.wav", given=["in", "in/a.wav", "in"]) == (["a.cvq"], [])


@pytest.mark.parametrize("bytes_", [247, 251, 255])
def test_results_of_the_longest_file_names_stay_below_the_limit(bytes_: int, tmp_path: Path) -> None:
    long = "é" * ((bytes_ - 4) // 2)
    names, failures = tasks_of(tmp_path, f"in/{long}.wav", f"in/{long}.m4a", f"in/{long}.au", given=["in"])
    assert not failures
    assert len(set(names)) == 3
    assert all(len(os.fsencode(name)) <= 255 and name.endswith(".cvq") for name in names)


def test_inputs_without_files_are_failures_and_the_others_are_processed(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    def find(folder: Path) -> list[Path]:
        raise AudioError(f"{folder} is empty")

    works, failures = _file_tasks([tmp_path / "empty", tmp_path / "a.wav"], find, tmp_path / "out", ".cvq")
    assert [work.source.name for work in works] == ["a.wav"]
    assert [failure.source for failure in failures] == [str(tmp_path / "empty")]


# commands


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = {"name": "spectral", "hop_length": 160, "window_length": 320, "num_mels": 20, "dim": 8}
    network |= {
        f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in (("width", 16), ("blocks", 1))
    }
    made = Codec(
        sample_rate=16_000, network=network, quantizer={"name": "vq", "codebook_size": 16}, name="../../tiny"
    )
    return made.eval().save(tmp_path_factory.mktemp("codec") / "tiny")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Valid files, damaged ones, and one with a name that is not UTF-8."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.wav", "b.flac", os.fsdecode(b"caf\xe9.wav")):
        write_audio(folder / name, SOUND, 16_000)
    (folder / "damaged.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(range(256)) * 20)
    (folder / "text.wav").write_text("no audio")
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any], str]:
    with pytest.raises(SystemExit) as leaving:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(leaving.value.code or 0), json.loads(captured.out), captured.err


def test_encode_and_decode_continue_after_damaged_files(
    capsys: pytest.CaptureFixture[str], codec: Path, folder: Path, tmp_path: Path
) -> None:
    code, output, _ = call(capsys, "encode", codec, folder, "-o", tmp_path / "small", "--json")
    assert (code, output["done"], output["failed"]) == (1, 3, 2)
    assert {Path(failure["source"]).name for failure in output["failures"]} == {"damaged.mp4", "text.wav"}
    (tmp_path / "small" / "damaged.cvq").write_bytes(b"CVQ1" + bytes(50))
    code, output, _ = call(capsys, "decode", codec, tmp_path / "small", "-o", tmp_path / "back", "--json")
    assert (code, output["done"], output["failed"]) == (1, 3, 1)
    assert os.fsdecode(b"caf\xe9.wav") in os.listdir(tmp_path / "back")


@pytest.fixture
def manifest(folder: Path) -> Path:
    """A manifest with an existing clip, a missing file and a URL."""
    path = folder / "clips.jsonl"
    rows = [
        {"path": "a.wav", "id": "=1|a", "speaker": "<b>"},
        {"path": "gone.wav", "id": "gone"},
        {"path": "https://nowhere.invalid/a.wav", "id": "far"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_evaluate_counts_missing_clips(
    capsys: pytest.CaptureFixture[str], codec: Path, manifest: Path, tmp_path: Path
) -> None:
    arguments = [
        "evaluate",
        codec,
        manifest,
        "--split",
        "all",
        "--metrics",
        "si_sdr",
        "--out",
        tmp_path / "out",
    ]
    code, output, _ = call(capsys, *arguments, "--json")
    assert (code, output["done"], output["failed"], output["clips_given"]) == (1, 1, 2, 3)
    assert [failure["source"] for failure in output["failures"]] == ["gone", "far"]
    assert set(output["failures"][0]) >= {"source", "error", "stage"}
    report = tmp_path / "out" / "report"
    assert Evaluation.load(report).clips_given == 3
    assert "\n'=1|a," in (report / "clips.csv").read_text()
    assert "gone.wav does not exist" in (report / "index.html").read_text()


def test_compare_counts_missing_clips(
    capsys: pytest.CaptureFixture[str], codec: Path, manifest: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = [
        "compare",
        codec,
        "--data",
        manifest,
        "--metrics",
        "si_sdr",
        "--group-by",
        "speaker",
        "--audio",
    ]
    code, output, _ = call(capsys, *arguments, "-o", out, "--json")
    assert (code, output["done"], output["failed"], output["clips_given"]) == (1, 1, 2, 3)
    assert [failure["source"] for failure in output["failures"]] == ["gone", "far"]
    assert len(list((out / "audio").rglob("*.flac"))) == 1
    (folder,) = (out / "audio").iterdir()
    assert folder.parent == out / "audio", "the path of a codec becomes one folder name"


def test_unprintable_text_can_be_saved(codec: Path, manifest: Path, tmp_path: Path) -> None:
    odd = "half\udce9 \x1b[31m | <b>"
    clip = open_corpus(manifest=manifest)[0]
    found = evaluate(load(codec), [clip], ["si_sdr"], audio_dir=tmp_path / "audio")
    row = dataclasses.replace(found.rows[0], id=odd, path=odd, text=odd, speaker=odd)
    found = dataclasses.replace(found, rows=(row,), codec={**found.codec, "name": odd})
    found.save(tmp_path)
    assert Evaluation.load(tmp_path).rows[0] == row, "the text is unchanged"
    assert (tmp_path / "clips.csv").read_bytes().decode("utf-8")
    assert write_report(tmp_path, found).read_bytes().decode("utf-8")

    compared = compare([str(codec)], [clip], ["si_sdr"], data=odd)
    same = dataclasses.replace(
        compared.codecs[0], name=odd, rows=(dataclasses.replace(compared.codecs[0].rows[0], id=odd),)
    )
    path = dataclasses.replace(compared, codecs=(same,)).save(tmp_path / "c")
    assert json.loads(path.read_bytes())["codecs"][0]["name"] == odd
    assert "half\\\\udce9" in (tmp_path / "c" / "comparison.md").read_bytes().decode("utf-8")


def test_results_are_saved_if_the_report_fails(
    capsys: pytest.CaptureFixture[str],
    codec: Path,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise UnicodeError("a font is missing")

    monkeypatch.setattr("codecvq.evaluation.report.write_report", fails)
    arguments = [
        "evaluate",
        codec,
        manifest,
        "--split",
        "all",
        "--metrics",
        "si_sdr",
        "--out",
        tmp_path / "out",
    ]
    code, output, _ = call(capsys, *arguments, "--json")
    assert code == 1
    assert output["failures"][-1] == {"source": "report", "error": "UnicodeError: a font is missing"}
    assert Evaluation.load(tmp_path / "out" / "report").means["si_sdr"].n == 1


def test_the_name_of_a_codec_cannot_escape_the_output_folder(
    capsys: pytest.CaptureFixture[str],
    codec: Path,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b" / "c")
    before = set(tmp_path.iterdir())
    call(capsys, "evaluate", codec, manifest, "--split", "all", "--metrics", "si_sdr", "--json")
    assert set(tmp_path.iterdir()) == before
    assert list((tmp_path / "a" / "b" / "c" / "evaluation").rglob("evaluation.json"))


def test_results_are_saved_if_audio_cannot_be_written(
    codec: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("codecvq.evaluation.audio_writer.write_audio", full)
    corpus = open_corpus(manifest=manifest)
    clips = [dataclasses.replace(corpus[0], id=str(i)) for i in range(3)]
    found = evaluate(load(codec), clips, ["si_sdr"], audio_dir=tmp_path / "audio")
    assert len(found.rows) == found.means["si_sdr"].n == 3
    assert [(failure.clip, failure.stage) for failure in found.failures] == [("0", "audio")]
    compared = compare([str(codec)], clips, ["si_sdr"], audio_dir=tmp_path / "audio")
    assert len(compared.codecs[0].rows) == 3
    assert [failure.stage for failure in compared.codecs[0].failures] == ["audio"]

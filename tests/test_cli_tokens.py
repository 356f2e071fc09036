"""Commands for token datasets: errors of options in one line, and listed and counted failures."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from test_tokens import RATE, tone

from codecvq.audio import write_audio
from codecvq.cli.app import main
from codecvq.tokens import read_tokens

CODEC = "speech-16k"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder: two clips, and a manifest with these and a missing third."""
    monkeypatch.chdir(tmp_path)
    for i in range(2):
        write_audio(tmp_path / "clips" / f"{i}.wav", tone(4000 + i, i), RATE)
    rows = [{"audio": f"clips/{name}.wav"} for name in ("0", "gone", "1")]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def run(capsys, *arguments):
    """Exit code, JSON or lines of stdout, lines of stderr."""
    try:
        main(list(arguments))
        code = 0
    except SystemExit as leaving:
        code = leaving.code
    captured = capsys.readouterr()
    return (
        code,
        json.loads(captured.out) if "--json" in arguments and captured.out else captured.out,
        captured.err,
    )


INVALID_OPTIONS = {
    ("--shard", "²/3"): "--shard is '²/3'",
    ("--shard", "3/3"): "--shard is '3/3'",
    ("--shard", "0/0"): "--shard is '0/0'",
    ("--shard", "1"): "--shard is '1'",
    ("--shard", "-1/2"): "--shard is '-1/2'",
    ("--shard", "9" * 5000 + "/1"): "--shard is",
    ("--num-codebooks", "0"): "--num-codebooks",
    ("--num-codebooks", "9"): "--num-codebooks is 9",
    ("--out", "m.jsonl"): "m.jsonl is a file",
    ("--out", "a\0b"): "NUL",
}


@pytest.mark.parametrize("options", INVALID_OPTIONS, ids=[" ".join(words)[:30] for words in INVALID_OPTIONS])
def test_invalid_options_give_a_one_line_error(folder, capsys, options):
    code, out, err = run(capsys, "tokenize", CODEC, "clips", "--out", "t", *options)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert INVALID_OPTIONS[options] in err
    assert not (folder / "t").exists()


def test_failures_of_tokenize_and_detokenize_are_listed_and_counted(folder, capsys):
    for again in range(2):
        code, found, _ = run(capsys, "tokenize", CODEC, "m.jsonl", "--out", "t", "--json")
        assert (code, found["done"], found["failed"], found["complete"]) == (1, 2, 1, True)
        assert (found["clips"], found["clips_there"]) == ((0, 2) if again else (2, 0))
        assert found["failures"][0]["id"] == "clips/gone"
    code, out, _ = run(capsys, "tokenize", CODEC, "m.jsonl", "--out", "t")
    assert code == 1
    assert "clips/gone" in out
    assert "2 already present, 1 failed; complete" in out
    ids = read_tokens("t").ids
    (folder / "out" / f"{ids[0]}.flac").mkdir(parents=True)
    code, found, _ = run(capsys, "detokenize", CODEC, "t", "--out", "out", "--json")
    assert (code, found["done"], found["failed"]) == (1, 1, 1)
    assert found["failures"][0]["id"] == ids[0]
    code, found, _ = run(capsys, "detokenize", CODEC, "t", "--out", "fine", "--json")
    assert (code, found["done"], found["failed"], found["failures"]) == (0, 2, 0, [])
    for options, what in {
        ("--ids", ""): "contains no name",
        ("--ids", ","): "contains no name",
        ("--ids", "nosuch"): "no clip 'nosuch'",
        ("--suffix", ".exe"): "suffix is '.exe'",
        ("--ids", os.fsdecode(b"\xff")): "no clip",
    }.items():
        code, out, err = run(capsys, "detokenize", CODEC, "t", "--out", "other", *options)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert what in err
        assert not (folder / "other").exists()


def test_a_corpus_without_readable_clips_gives_exit_code_2(folder, capsys):
    (folder / "bad").mkdir()
    (folder / "bad" / "a.wav").write_bytes(np.arange(1000, dtype=np.uint8).tobytes())
    code, _, err = run(capsys, "tokenize", CODEC, "bad", "--out", "t")
    assert (code, len(err.splitlines()[-1:])) == (2, 1)
    assert "none of the 1 clips could be tokenized" in err

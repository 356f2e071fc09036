"""Invalid command-line input prints one line to stderr and exits with 2 before anything is loaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from codecvq.audio import write_audio
from codecvq.cli.app import main

CODEC = "speech-16k"
METRICS = ("--metrics", "si_sdr")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a clip, a text file, a FIFO and an empty folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    write_audio(tmp_path / "clips" / "a.wav", [0.1, -0.1] * 800, 16_000)
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


@pytest.fixture(autouse=True)
def loaded_codecs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Arguments of the calls that load a codec. Invalid options must raise before the first one."""
    loaded: list[object] = []
    from codecvq import codec

    plain = codec.load

    def load(*arguments: object, **keywords: object) -> object:
        loaded.append(arguments)
        return plain(*arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(codec, "load", load)
    return loaded


def error_line(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The only line that the command prints. Asserts exit code 2."""
    with pytest.raises(SystemExit) as exit_error:
        main(arguments)
    captured = capsys.readouterr()
    assert exit_error.value.code == 2, (arguments, captured)
    lines = captured.err.splitlines()
    assert len(lines) == 1, (arguments, captured)
    assert lines[0].startswith("error: ")
    assert not captured.out
    return lines[0]


BEFORE_LOADING = {
    # numbers
    ("encode", CODEC, "clips", "-o", "out", "--num-codebooks", "0"): "--num-codebooks",
    ("encode", CODEC, "clips", "-o", "out", "--num-codebooks", "-1"): "--num-codebooks",
    ("encode", CODEC, "clips", "-o", "out", "--num-codebooks", "1.5"): "--num-codebooks",
    ("encode", CODEC, "clips", "-o", "out", "--num-codebooks", "9" * 5000): "--num-codebooks",
    ("evaluate", CODEC, "clips", "--max-clips", "0"): "--max-clips",
    ("evaluate", CODEC, "clips", "--max-clips", "-3"): "--max-clips",
    ("compare", CODEC, "--data", "clips", "--max-clips", "x"): "--max-clips",
    ("compare", CODEC, "--data", "clips", "--sample-rate", "0"): "--sample-rate",
    ("compare", CODEC, "--data", "clips", "--sample-rate", "-16000"): "--sample-rate",
    ("compare", CODEC, "--data", "clips", "--sample-rate", "9" * 30): "--sample-rate",
    ("quickstart", "--steps", "0"): "--steps",
    ("quickstart", "--steps", "-1"): "--steps",
    # lists and names
    ("evaluate", CODEC, "clips", "--metrics", ",,"): "contains no name",
    ("evaluate", CODEC, "clips", "--metrics", ""): "contains no name",
    ("evaluate", CODEC, "clips", "--metrics", "pesk_wb"): "Did you mean 'pesq_wb'",
    ("compare", CODEC, "--data", "clips", "--metrics", " , "): "contains no name",
    ("compare", CODEC, "--data", "clips", "--metrics", "si_sdr,nosuch"): "nosuch",
    ("evaluate", CODEC, "clips", "--split", "tests"): "Did you mean 'test'",
    ("compare", CODEC, "--data", "clips", "--split", ""): "train, validation, test or all",
    ("decode", CODEC, "clips", "-o", "out", "--suffix", ".mp3"): ".wav or .flac",
    # paths
    ("encode", CODEC, "clips", "-o", "~nosuchuser/out"): "no such user",
    ("encode", CODEC, "~nosuchuser", "-o", "out"): "no such user",
    ("encode", "~nosuchuser/run", "clips", "-o", "out"): "no such user",
    ("encode", CODEC, "clips", "-o", "a\0b"): "NUL",
    ("encode", CODEC, "a\0b", "-o", "out"): "NUL",
    ("encode", CODEC, "clips", "-o", ""): "the path is empty",
    ("encode", CODEC, "clips"): "--out",
    ("evaluate", CODEC, "clips", "--out", "~nosuchuser"): "no such user",
    ("compare", CODEC, "--data", "~nosuchuser", *METRICS): "no such user",
    ("compare", CODEC, "--data", "a\0b", *METRICS): "NUL",
    ("compare", CODEC, "--data", "file", *METRICS): "neither a folder nor a manifest",
    ("compare", CODEC, "--data", "fifo", *METRICS): "neither a folder nor a manifest",
    ("compare", CODEC, "--data", "/dev/zero", *METRICS): "neither a folder nor a manifest",
    ("compare", CODEC, "--data", "empty", *METRICS): "no audio",
    ("compare", CODEC, "--data", "clips", *METRICS, "--root", "clips"): "root",
    ("compare", CODEC, "--data", "clips", *METRICS, "-o", "file"): "is a file",
    ("compare", CODEC, "--data", "clips", *METRICS, "-o", "file/x"): "file/x",
    ("compare", CODEC, "--data", "clips", *METRICS, "-o", "/proc/x"): "/proc/x",
    ("evaluate", CODEC): "no data to evaluate on",
    ("evaluate", "runs/nothere"): "is not a codec",
    # commands
    ("encoda",): "Did you mean 'encode'",
    ("encode", CODEC, "clips", "-o", "out", "--nosuch"): "--nosuch",
}


@pytest.mark.parametrize(
    ("arguments", "message"), BEFORE_LOADING.items(), ids=[" ".join(words)[:60] for words in BEFORE_LOADING]
)
def test_invalid_input_prints_one_line_before_a_codec_is_loaded(
    arguments: tuple[str, ...],
    message: str,
    folder: Path,
    loaded_codecs: list[object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in error_line(capsys, list(arguments))
    assert not loaded_codecs
    assert sorted(path.name for path in folder.iterdir()) == ["clips", "empty", "fifo", "file"]


BEFORE_WORK = {
    ("compare", CODEC, "--data", "clips", *METRICS, "--group-by", "age"): "no column 'age'",
    ("encode", CODEC, "clips", "-o", "out", "--num-codebooks", "7"): "has 6",
    ("encode", CODEC, "clips", "-o", "file"): "is a file",
    ("decode", CODEC, "clips/a.wav", "-o", "/proc/x"): "/proc/x",
    ("evaluate", CODEC, "clips", *METRICS, "--split", "all", "--out", "file"): "is a file",
    ("evaluate", CODEC, "clips", *METRICS, "--root", "clips"): "root",
    ("compare", f"{CODEC}@9", "--data", "clips", *METRICS): "1 to 6",
    ("compare", f"{CODEC}@²", "--data", "clips", *METRICS): "is not a codec",
    ("compare", f"{CODEC}@{'9' * 5000}", "--data", "clips", *METRICS): "",
    ("compare", CODEC, "--data", "clips", *METRICS, "--against", "speech-61k"): "Did you mean 'speech-16k'",
}


@pytest.mark.parametrize(
    ("arguments", "message"), BEFORE_WORK.items(), ids=[" ".join(words)[:60] for words in BEFORE_WORK]
)
def test_invalid_input_prints_one_line_before_a_clip_is_read(
    arguments: tuple[str, ...],
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("a clip was read")

    monkeypatch.setattr("codecvq.data.corpus.Clip.read", read)
    monkeypatch.setattr("codecvq.audio.read_audio", read)
    assert message in error_line(capsys, list(arguments))
    assert sorted(path.name for path in folder.iterdir()) == ["clips", "empty", "fifo", "file"]

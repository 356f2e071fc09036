"""The command line: help, errors in one line with an exit code, and complete workflows."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codecvq.audio import read_audio
from codecvq.cli.app import main
from codecvq.training import loop
from codecvq.training.recipe import load_recipe
from recipes import write_recipe

SECOND = np.sin(np.arange(44100) * 2 * np.pi * 440 / 44100) * 0.3  # 440 Hz at 44.1 kHz


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    recipe = load_recipe(write_recipe(folder / "tiny.yaml", training={"steps": 2}))
    loop.train(recipe, folder / "run")
    return folder / "run"


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as leaving:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(leaving.value.code or 0), captured.out, captured.err


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["plugins", "list"], ["recipes", "list"], ["train", "--help"]], ids=" ".join
)
def test_help_and_lists_import_no_torch(arguments: list[str]) -> None:
    done = python(
        f"import sys\nfrom codecvq.cli.app import main\ntry: main({arguments!r})\n"
        "except SystemExit as leaving: assert not leaving.code, leaving.code\n"
        "heavy = {'torch', 'librosa', 'torchaudio', 'matplotlib', 'encodec', 'accelerate', 'pyarrow'} & "
        "set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["plugins", "list"]], ids=" ".join)
def test_help_and_plugins_list_start_fast(arguments: list[str]) -> None:
    times: list[float] = []
    while len(times) < 20 and (not times or min(times) >= 0.4):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "codecvq", *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.6, f"processor time in s: {times}"


COMMANDS = (
    "quickstart",
    "train",
    "evaluate",
    "compare",
    "encode",
    "decode",
    "tokenize",
    "detokenize",
    "plugins list",
    "recipes show",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = call(capsys, *command.split(), "--help")
    assert code == 0
    assert f"Example: codecvq {command.split()[0]}" in " ".join(out.replace("│", " ").split())


def test_user_errors_are_one_line_with_exit_code_2(
    capsys: pytest.CaptureFixture[str], run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.wav").write_text("not audio\n")
    (tmp_path / "misspelt.yaml").write_text(
        (run_folder.parent / "tiny.yaml").read_text() + "\ntrainning: {}\n"
    )
    tiny, empty = run_folder.parent / "tiny.yaml", tmp_path / "empty"
    cases = {
        ("train", "nosuch"): "no recipe named 'nosuch'",
        ("train", tmp_path / "misspelt.yaml"): "Did you mean 'training'",
        ("train", tiny, "corpus.name=libritss"): "Did you mean 'libritts'",
        ("train", tiny, "corpus.name=null", f"corpus.folder={empty}"): "empty",
        ("train", tiny, "corpus.name=asterisk", f"corpus.root={tmp_path}"): "asterisk",
        ("train", tiny, "quantizer.level=[3]"): "Did you mean 'levels'",
        ("encode", tmp_path, tmp_path, "-o", tmp_path / "out"): "is not a codec",
        ("encode", run_folder, empty, "-o", tmp_path / "out"): "empty",
        ("encode", run_folder, tmp_path / "text.wav", "-o", tmp_path / "out"): "text.wav",
        ("decode", run_folder, tmp_path / "text.wav", "-o", tmp_path / "out"): "text.wav",
        ("evaluate", run_folder, tmp_path / "nowhere"): "nowhere",
        ("evaluate", run_folder, "--split", "best"): "train, validation, test or all",
        ("evaluate", run_folder, "--metrics", "pesk_wb"): "Did you mean 'pesq_wb'",
        ("tokenize", run_folder, empty, "-o", tmp_path / "tokens"): "empty",
        ("detokenize", run_folder, empty, "-o", tmp_path / "audio"): "empty",
        ("plugins", "show", "fsqq"): "Did you mean 'fsq'",
        ("plugins", "list", "--plugin", tmp_path / "nowhere.py"): "cannot be read",
    }  # fmt: skip
    for arguments, says in cases.items():
        code, out, err = call(capsys, *arguments)
        output = [line for line in (out + err).splitlines() if says in line]
        assert code == 2, (arguments, out, err)
        assert output, (arguments, out, err)
        assert "Traceback" not in out + err
    assert not (tmp_path / "runs").exists(), "a training that cannot start creates no folder"


def test_decoded_files_have_the_original_length(
    capsys: pytest.CaptureFixture[str], run_folder: Path, tmp_path: Path
) -> None:
    recordings = tmp_path / "recordings"
    (recordings / "deep" / "er").mkdir(parents=True)
    soundfile.write(recordings / "stereo.mp3", np.stack([SECOND, -0.5 * SECOND], axis=1), 44100)
    soundfile.write(recordings / "deep" / "er" / "a.flac", SECOND[:12345], 44100)
    soundfile.write(recordings / "deep" / "er" / "a.wav", SECOND[:1], 44100)
    (recordings / "notes.wav").write_text("a text file named .wav")
    code, out, _ = call(capsys, "encode", run_folder, recordings, "-o", tmp_path / "small", "--json")
    output = json.loads(out)
    assert code == 1, "some files were encoded, some were not"
    assert [Path(failure["source"]).name for failure in output["failures"]] == ["notes.wav"]
    assert {str(Path(row["file"]).relative_to(tmp_path / "small")) for row in output["files"]} == {
        "stereo.cvq", "deep/er/a.cvq", "deep/er/a.wav.cvq",
    }  # fmt: skip
    code, out, _ = call(capsys, "decode", run_folder, tmp_path / "small", "-o", tmp_path / "back", "--json")
    assert code == 0
    for row in output["files"]:
        name = Path(row["file"]).relative_to(tmp_path / "small").with_suffix(".wav")
        original = read_audio(row["source"])
        decoded = read_audio(tmp_path / "back" / name)
        assert decoded.sample_rate == original.sample_rate == 44100
        assert decoded.samples.shape == original.samples.shape
    assert call(capsys, "encode", run_folder, recordings / "stereo.mp3", "-o", tmp_path, "--mono")[0] == 0
    options = ["--codec-rate", "--suffix", ".flac", "--from", 0.25, "--to", 0.75]
    assert call(capsys, "decode", run_folder, tmp_path / "stereo.cvq", "-o", tmp_path, *options)[0] == 0
    mono = read_audio(tmp_path / "stereo.flac")
    assert (mono.sample_rate, mono.samples.shape) == (16000, (1, 8000))


def test_tokenized_and_detokenized_files_have_the_original_length(
    capsys: pytest.CaptureFixture[str], run_folder: Path, tmp_path: Path
) -> None:
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    soundfile.write(recordings / "a.wav", SECOND[:16001], 16000)
    assert call(capsys, "tokenize", run_folder, recordings, "-o", tmp_path / "tokens")[0] == 0
    code, out, _ = call(
        capsys, "detokenize", run_folder, tmp_path / "tokens", "-o", tmp_path / "audio", "--json"
    )
    assert code == 0
    assert [read_audio(file).samples.shape for file in json.loads(out)["files"]] == [(1, 16001)]


def test_evaluate_prints_the_numbers_of_its_report(
    capsys: pytest.CaptureFixture[str], run_folder: Path, tmp_path: Path
) -> None:
    code, out, _ = call(
        capsys,
        "evaluate",
        run_folder,
        "--metrics",
        "stoi,mel_distance",
        "--max-clips",
        2,
        "--out",
        tmp_path,
        "--device",
        "cpu",
    )
    assert code == 0
    assert out.splitlines()[-1] == f"report: {tmp_path / 'report' / 'index.html'}"
    assert (tmp_path / "report" / "index.html").is_file()
    numbers = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert set(numbers["means"]) == {"stoi", "mel_distance"}


@pytest.mark.parametrize("inside", ["", "codec"])
def test_evaluated_training_clips_are_reported(
    inside: str, capsys: pytest.CaptureFixture[str], run_folder: Path, tmp_path: Path
) -> None:
    codec, options = run_folder / inside, ["--metrics", "si_sdr", "--max-clips", 3, "--json"]
    for split, known in (("train", 3), ("test", 0)):
        out = ["--split", split, "--out", tmp_path / split]
        code, output, err = call(capsys, "evaluate", codec, "prompts", *options, *out)
        assert code == 0
        assert len(json.loads(output)["trained_on"]) == known
        assert ("was trained on 3 of the 3 clips" in err) == bool(known)
        page = (tmp_path / split / "report" / "index.html").read_text()
        assert ("trained on 3 of these 3 clips" in page) == bool(known)
    compare = ["compare", codec, "speech-16k", "--split", "train", "-o", tmp_path / "c"]
    output = json.loads(call(capsys, *compare, *options)[1])
    assert [entry["trained_on"] and len(entry["trained_on"]) for entry in output["codecs"]] == [3, None]
    table = (tmp_path / "c" / "comparison.md").read_text()
    assert "| codec | kbit/s | trained on | si_sdr ↑ |" in table
    assert "| 3 of 3 |" in table
    assert "| ? |" in table


def test_the_debug_option_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--debug", "train", "nosuch"])
    assert left.value.code == 2, "as without --debug"
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "no recipe named 'nosuch'" in shown


@pytest.mark.slow
def test_the_quickstart_runs_and_resumes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "codecvq", "quickstart", "--run", str(tmp_path / "run"), "--steps", "4"]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    for made in (
        "codec/model.safetensors",
        "tokens/codec.json",
        "report/index.html",
        "report/evaluation.json",
        "split.jsonl",
    ):
        assert (tmp_path / "run" / made).is_file(), made
    assert len(list((tmp_path / "run" / "decoded").glob("*.wav"))) == 24
    for line in (
        "codecvq train quickstart",
        "codecvq encode",
        "codecvq decode",
        "codecvq tokenize",
        "codecvq evaluate",
    ):
        assert f"$ {line}" in first.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "already complete" in again.stdout

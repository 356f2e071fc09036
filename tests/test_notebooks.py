"""The notebooks of examples/: all run without an error, and what their text claims holds."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
MAX_BYTES = 300_000


def name(path: Path) -> str:
    return path.stem


def code_cells(path: Path) -> list[dict]:
    return [
        cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_stored_notebooks_are_small_and_have_outputs_without_audio_errors_and_paths(path: Path) -> None:
    assert path.stat().st_size < MAX_BYTES
    source = path.read_text(encoding="utf-8")
    for forbidden in ("<audio", "data:audio", "/root/", "/home/", "/tmp/", "/Users/"):
        assert forbidden not in source, forbidden
    outputs = [output for cell in code_cells(path) for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []
    assert [cell["execution_count"] for cell in code_cells(path)] == list(range(1, len(code_cells(path)) + 1))


def test_every_notebook_is_linked() -> None:
    for page in ("examples/README.md", "docs/tutorials/notebooks.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert [path.name for path in NOTEBOOKS if path.name not in text] == []


def executed(path: Path) -> str:
    """Everything that a notebook prints when it runs in an empty folder."""
    if missing := [part for part in ("nbclient", "ipykernel") if importlib.util.find_spec(part) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    from scripts.notebooks import run, texts

    return "".join(texts(cell) for cell in run(path).cells)


def numbers(pattern: str, text: str) -> list[float]:
    return [float(number) for number in re.findall(pattern, text)]


@pytest.mark.slow
def test_compress_and_listen() -> None:
    text = executed(ROOT / "examples/compress_and_listen.ipynb")
    assert text.count("equal to the first of all codes: True") == 3
    sizes = numbers(r"(\d+) bytes +\d+ bytes", text)
    assert len(sizes) == 3
    assert sizes == sorted(sizes)
    measured, nominal = numbers(r"(\d+) bit/s +\d+ times", text), (498.3, 1494.9, 2989.7)
    assert all(rate < limit for rate, limit in zip(measured, nominal, strict=True))
    assert "BitstreamError" in text
    stoi, estoi = numbers(r"STOI ([\d.]+), ", text), numbers(r"ESTOI ([\d.]+)\n", text)
    assert len(stoi) == len(estoi) == 3
    assert stoi == sorted(stoi)
    assert estoi == sorted(estoi)
    assert stoi[1] > 0.9


@pytest.mark.slow
def test_own_quantizer() -> None:
    text = executed(ROOT / "examples/own_quantizer.ipynb")
    assert re.search(r"Counter\(\{'ok': \d{3}\}\)", text)
    rows = re.findall(r"^(residual_\w+) +([\d.]+) +([\d.]+) +([\d.]+) +\d+%", text, re.MULTILINE)
    errors = {row[0]: [float(error) for error in row[1:]] for row in rows}
    mu_law, fsq, vq = errors["residual_mu_law"], errors["residual_fsq"], errors["residual_vq"]
    assert mu_law == sorted(mu_law, reverse=True)
    assert mu_law[0] > fsq[0]
    assert mu_law[2] < fsq[2]
    assert all(v < min(m, f) for v, m, f in zip(vq, mu_law, fsq, strict=True))
    first, last = numbers(r"([\d.]+) at step", text)
    assert last < 0.9 * first
    assert "38204 samples in, 38204 samples out" in text


@pytest.mark.slow
def test_tiny_language_model() -> None:
    text = executed(ROOT / "examples/tiny_language_model.ipynb")
    assert "153 clips, 481 s of audio, 0 failures" in text
    assert "the way back is exact: True" in text
    (entropy,) = numbers(r"entropy of the training tokens: ([\d.]+)", text)
    (baseline,) = numbers(r"codebook is known: ([\d.]+)", text)
    train, validation = numbers(r": train ([\d.]+)", text), numbers(r", validation ([\d.]+)\n", text)
    assert len(train) == len(validation) == 11
    assert train[-1] < entropy - 1
    assert validation[-1] < baseline - 1
    assert validation[-1] < validation[4]
    assert "codes [3, 2, 150], audio [3, 1, 48000]" in text
    runs = numbers(r"sample 1: runs .* (\d+) %\n", text)
    assert runs[0] < 20  # of four frames: samples are not copies of the training clips

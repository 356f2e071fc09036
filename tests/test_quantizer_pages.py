"""The pages of the quantizers are complete: options, measured rows, references; their command runs."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from codecvq.api.hookspecs import QuantizerSpec
from codecvq.plugins import registry
from codecvq.plugins.registration import Registration
from codecvq.quantizer.build import COMPOSITIONS, quantizer_options

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs/quantizers"
BENCHMARK = "benchmarks/quantizer_quality.py"
ROW = re.compile(r"^\| `(\w+)` \| `([^`]*=[^`]*)` \| (.+) \|$", re.MULTILINE)


def rows(page: Path) -> dict[tuple[str, str], list[str]]:
    """Cells of all measured rows of a page: (quantizer, options) -> cells."""
    matches = ROW.findall(page.read_text(encoding="utf-8"))
    return {(name, options): [cell.strip() for cell in cells.split("|")] for name, options, cells in matches}


def bundled_quantizers() -> dict[str, Registration[QuantizerSpec]]:
    """Name -> registration of each quantizer of codecvq, without the compositions."""
    return {
        name: registration
        for name, registration in registry().all(QuantizerSpec).items()
        if registration.origin.distribution == "codecvq" and name not in COMPOSITIONS
    }


def test_rows_of_the_pages_equal_the_common_table() -> None:
    everything = rows(PAGES / "index.md")
    assert len(everything) > 15
    seen = 0
    for name in (*bundled_quantizers(), "compositions"):
        page = PAGES / f"{name}.md"
        assert BENCHMARK in page.read_text(encoding="utf-8"), page
        page_rows = rows(page)
        if name != "compositions":
            assert name in {quantizer for quantizer, _ in page_rows}, f"{page} has no measured row of {name}"
        for key, cells in page_rows.items():
            assert everything[key][: len(cells)] == cells, key
            seen += 1
    assert seen >= 15


def test_every_quantizer_has_a_page_with_all_sections() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == {*bundled_quantizers(), "index", "compositions"}
    for name in bundled_quantizers():
        text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
        sections = (
            "## Equation",
            "**When to use it.**",
            "**When not to use it.**",
            "## Measured",
            "## Pitfalls",
        )
        for needed in (*sections, "$$", "arXiv:"):
            assert needed in text, f"{name}: {needed}"


@pytest.mark.parametrize("name", [*bundled_quantizers(), *COMPOSITIONS])
def test_option_tables_equal_the_options_of_the_quantizer(name: str) -> None:
    page = PAGES / ("compositions.md" if name in COMPOSITIONS else f"{name}.md")
    text = page.read_text(encoding="utf-8")
    tables = re.findall(r"^\| option of `(\w+)`", text, re.MULTILINE)
    assert sorted(tables) == sorted(COMPOSITIONS if name in COMPOSITIONS else [name])
    table = re.search(rf"^\| option of `{name}`.*?(?=\n\n)", text, re.MULTILINE | re.DOTALL)
    assert table
    assert re.findall(r"^\| `(\w+)` \| (.+?) \|", table[0], re.MULTILINE) == [
        (option, "–" if default is inspect.Parameter.empty else f"`{default!r}`")
        for option, default in quantizer_options(name).items()
    ]


def test_the_readme_of_a_quantizer_plugin_links_to_its_page() -> None:
    for name, registration in bundled_quantizers().items():
        readme = ROOT / "plugins" / getattr(registration.module, "__name__", "") / "README.md"
        text = readme.read_text(encoding="utf-8")
        links = re.findall(r"\]\(([^)]+)\)", text)
        assert f"../../docs/quantizers/{name}.md" in links, readme
        assert all((readme.parent / link).is_file() for link in links), readme
        for file in readme.parent.glob("[!_]*.py"):
            assert f"`{file.name}`" in text, f"{readme} does not name {file.name}"


@pytest.mark.slow
def test_the_benchmark_command_runs(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    command = [sys.executable, BENCHMARK, "--steps", "2", "--seeds", "1", "--only", "fsq", "--json", str(out)]
    paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "plugins"))
    variables = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(out.read_text())
    assert {row["name"] for row in results} == {"fsq", "residual_fsq"}
    assert all(0 < row["used"] <= 1 and 0 < row["entropy_bits"] <= row["bits"] for row in results)
    assert [len(row["snr_db"]) for row in results] == [1] * len(results)

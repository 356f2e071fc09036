"""The measured rows of the quantizers' pages: every quantizer has one, they agree, their command runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from codecvq.plugins import registry
from codecvq.quantizer.build import COMPOSITIONS

ROOT = Path(__file__).resolve().parents[1]
BENCHMARK = "benchmarks/quantizer_quality.py"
ROW = re.compile(r"^\| `(\w+)` \| `([^`]*=[^`]*)` \| (.+) \|$", re.MULTILINE)


def rows(page: Path) -> dict[tuple[str, str], list[str]]:
    """(quantizer, options) -> the cells after them, of every measured row of a page."""
    found = ROW.findall(page.read_text(encoding="utf-8"))
    return {(name, options): [cell.strip() for cell in cells.split("|")] for name, options, cells in found}


def test_rows_of_the_pages_are_those_of_the_table_of_all() -> None:
    everything = rows(ROOT / "docs/quantizers/index.md")
    assert len(everything) > 15
    seen = 0
    for name, registration in registry().all("quantizers").items():
        if registration.origin.distribution != "codecvq" or name in COMPOSITIONS:
            continue
        page = ROOT / "plugins" / getattr(registration.module, "__name__", "") / "README.md"
        assert BENCHMARK in page.read_text(encoding="utf-8"), page
        own = rows(page)
        assert name in {quantizer for quantizer, _ in own}, f"{page} has no measured row of {name}"
        for key, cells in own.items():
            assert everything[key][: len(cells)] == cells, key
            seen += 1
    assert seen >= 15


@pytest.mark.slow
def test_the_command_beside_the_rows_runs(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    command = [sys.executable, BENCHMARK, "--steps", "2", "--seeds", "1", "--only", "fsq", "--json", str(out)]
    paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "plugins"))
    variables = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert {row["name"] for row in found} == {"fsq", "residual_fsq"}
    assert all(0 < row["used"] <= 1 and 0 < row["entropy_bits"] <= row["bits"] for row in found)
    assert [len(row["snr_db"]) for row in found] == [1] * len(found)

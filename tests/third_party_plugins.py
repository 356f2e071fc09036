"""Helpers for tests of plugins: installed distributions, and commands in separate processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
METRIC_PLUGIN = """
from codecvq import MetricSpec, hookimpl

@hookimpl
def codecvq_metrics():
    yield MetricSpec(name="{name}", columns=("{name}",), factory=lambda: None, default=False)
"""


def run(
    *command: str | Path, site: Path | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a separate process that can import the packages installed in `site`."""
    paths = [str(p) for p in (site, ROOT, ROOT / "plugins") if p]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
        timeout=120,
        check=False,
    )


def codecvq_command(*arguments: str | Path, site: Path | None = None, cwd: Path | None = None) -> str:
    """Standard output of `codecvq …`, which must exit with 0."""
    done = run(sys.executable, "-m", "codecvq", *arguments, site=site, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install_distribution(site: Path, name: str, source: str, entry: str = "", version: str = "1.0") -> None:
    """Install a distribution with one module and one entry point into the folder `site`."""
    module = name.replace("-", "_")
    (site / f"{module}.py").write_text(source)
    info = site / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[codecvq]\n{entry or module} = {module}\n")

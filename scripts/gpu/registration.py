"""Register the working tree as an installed codecvq, so that its entry points are found.

    python scripts/gpu/registration.py /tmp/site

writes /tmp/site/codecvq-VERSION.dist-info with the current entry points of pyproject.toml, and the command
/tmp/site/bin/codecvq. The code comes from PYTHONPATH. No pip, build tool or network is needed. A wheel would
be as small, but it would contain the entry points of the day it was built.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import tomllib

HERE = Path(__file__).resolve().parents[2]
COMMAND = """#!/usr/bin/env python3
import sys
from {module} import {function}
sys.exit({function}())
"""


def main() -> None:
    """Register the tree in the folder given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path, help="a folder on PYTHONPATH")
    register(HERE / "pyproject.toml", parser.parse_args().site)


def register(pyproject: Path, site: Path) -> Path:
    """Write the dist-info folder in `site`, replacing an older one, and return it."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    for stale in site.glob(f"{project['name']}-*.dist-info"):
        shutil.rmtree(stale)
    folder = site / f"{project['name']}-{project['version']}.dist-info"
    folder.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (folder / "METADATA").write_text(metadata, encoding="utf-8")
    (folder / "entry_points.txt").write_text(entry_points(project), encoding="utf-8")
    (site / "bin").mkdir(exist_ok=True)
    for name, target in project["scripts"].items():
        module, _, function = target.partition(":")
        command = site / "bin" / name
        command.write_text(COMMAND.format(module=module, function=function), encoding="utf-8")
        command.chmod(0o755)
    return folder


def entry_points(project: dict[str, Any]) -> str:  # Any: TOML values
    """The contents of entry_points.txt for a project."""
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    return "\n".join(
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in entries.items())
        for group, entries in groups.items()
    )


if __name__ == "__main__":
    main()

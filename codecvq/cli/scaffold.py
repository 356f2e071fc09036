"""`codecvq new-plugin`: write a template of a quantizer plugin."""

from __future__ import annotations

import keyword
import re
import shlex
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from codecvq.cli.console import print_text, print_written
from codecvq.cli.paths import typed_path
from codecvq.errors import PluginError
from codecvq.files import write_atomically
from codecvq.plugins import registry

TEMPLATES = Path(__file__).parent / "templates"


def new_plugin(
    name: Annotated[
        str, typer.Argument(help="Name of the quantizer: lowercase letters, digits and underscores.")
    ],
    packaged: Annotated[
        bool, typer.Option("--packaged", help="Write a package with tests that pip can install.")
    ] = False,
    into: Annotated[Path, typer.Option(help="Output folder.", parser=typed_path, metavar="FOLDER")] = Path(),
) -> None:
    """Create a new quantizer plugin from a template.

    Writes a working quantizer: a single file, or a package with tests with --packaged.

    Example: [bold]codecvq new-plugin my_vq[/]
    """
    _check_name(name)
    files = _distribution(name, into) if packaged else {into / f"{name}.py": "plugin.py.txt"}
    try:
        existing = [path for path in files if path.exists()]
        into.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise PluginError(
            f"the folder {_short(into)} is not writable ({reason}). Choose another folder with --into."
        ) from error
    if existing:
        raise PluginError(
            f"{existing[0]} already exists. Choose another name, or another folder with --into."
        )
    words = {
        "name": name,
        "Class": "".join(part.capitalize() for part in name.split("_")),
        "module": f"codecvq_{name}",
        "distribution": _distribution_name(name),
    }
    for path, template in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, Template((TEMPLATES / template).read_text(encoding="utf-8")).substitute(words))
    print_written(*(("wrote", path) for path in files))
    root = shlex.quote(str(into / _distribution_name(name)))
    file = into / f"{name}.py"
    plugin = shlex.quote(str(file) if into.is_absolute() else f"./{file}")
    alone = f"codecvq plugins check {name} --plugin {plugin}"
    with_tests = shlex.quote(f"{into / _distribution_name(name)}[test]")
    install = [f"pip install -e {with_tests}", f"codecvq plugins check {name}", f"python -m pytest {root}"]
    for step in install if packaged else [alone]:
        print_text(f"next:  {step}")


def _distribution(name: str, into: Path) -> dict[Path, str]:
    """Files of a package, each with its template."""
    root, module = into / _distribution_name(name), f"codecvq_{name}"
    return {
        root / "pyproject.toml": "packaged/pyproject.toml.txt",
        root / "README.md": "packaged/README.md.txt",
        root / "src" / module / "__init__.py": "packaged/init.py.txt",
        root / "src" / module / "quantizer.py": "packaged/quantizer.py.txt",
        root / "tests" / f"test_{name}.py": "packaged/test.py.txt",
    }


def _distribution_name(name: str) -> str:
    return f"codecvq-{name.replace('_', '-')}"


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _check_name(name: str) -> None:
    if (
        not re.fullmatch(r"[a-z][a-z0-9_]{0,59}", name)
        or keyword.iskeyword(name)
        or name.startswith(("residual_", "grouped_"))
    ):
        raise PluginError(
            f"{name[:80]!r} is not a valid name of a quantizer. Use up to 60 lowercase letters, digits and "
            "underscores, starting with a letter and not with residual_ or grouped_, for example 'my_vq'."
        )
    if taken := registry().registrations("quantizers").get(name):
        raise PluginError(
            f"a quantizer named {name!r} is already registered by {taken[0].origin}. Choose another name."
        )

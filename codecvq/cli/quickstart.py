"""`codecvq quickstart`: the ordinary verbs, one after another, on the corpus in the box."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

import codecvq
from codecvq.cli.console import duration, print_text, print_written
from codecvq.cli.paths import typed_path
from codecvq.errors import CodecvqError
from codecvq.signals import Terminated

EXIT_TIMEOUT_S = 3.0  # a Ctrl-C in a terminal reaches the verb too; another signal does not


def quickstart(
    run: Annotated[
        Path, typer.Option("--run", help="Folder for everything.", parser=typed_path, metavar="FOLDER")
    ] = Path("runs/quickstart"),
    steps: Annotated[int | None, typer.Option(help="Training steps, instead of the recipe's.", min=1)] = None,
) -> None:
    """Train a small codec on real speech, compress and decode held-out clips, evaluate, tokenize: in minutes,
    on a laptop.

    Interrupted, the same command goes on. Example: [bold]codecvq quickstart[/]
    """
    from codecvq.data import open_corpus

    start = time.monotonic()
    held_out = open_corpus("prompts").split("test")
    files = [str(clip.path) for clip in held_out.clips]
    overrides = [] if steps is None else [f"training.steps={steps}"]
    at = str(run)
    shown = f"codecvq encode {at} CLIPS --out {at}/compressed"
    codes = [
        _run_command("train", "quickstart", *overrides, "--run", at),
        _run_command("encode", at, *files, "--out", f"{at}/compressed", shown=shown),
        _run_command("decode", at, f"{at}/compressed", "--out", f"{at}/decoded"),
        _run_command("tokenize", at, "prompts", "--out", f"{at}/tokens"),
        _run_command("evaluate", at),
    ]
    print_text()
    print_written(
        ("all of it took", duration(time.monotonic() - start)),
        ("codec", run / "codec"),
        ("compressed", run / "compressed"),
        ("decoded", run / "decoded"),
        ("tokens", run / "tokens"),
        ("report", run / "report" / "index.html"),
    )
    if any(codes):
        raise typer.Exit(1)


def _run_command(*arguments: str, shown: str = "") -> int:
    """The exit code of `codecvq ARGUMENTS`, run as a user would, with the command line shown: 0, or 1 where
    some of it failed. Raises CodecvqError for any other.
    """
    print_text(f"\n$ {shown or 'codecvq ' + shlex.join(arguments)}", style="bold")
    sys.stdout.flush()
    with subprocess.Popen([sys.executable, "-m", "codecvq", *arguments], env=_environment()) as process:
        try:
            code = process.wait()
        except (KeyboardInterrupt, Terminated):  # the verb ends first: it has something to save
            _wait_or_terminate(process)
            raise
    if code not in (0, 1):
        raise CodecvqError(
            f"codecvq {arguments[0]} ended with exit {code}, see above. The same command goes on from there."
        )
    return code


def _environment() -> dict[str, str]:
    """Variables with which `python -m` finds this codecvq, and none in the working folder."""
    if Path(codecvq.__file__).resolve().parents[1] == Path.cwd():
        return dict(os.environ)
    return os.environ | {"PYTHONSAFEPATH": "1"}


def _wait_or_terminate(process: subprocess.Popen[bytes]) -> None:
    """Wait for a verb that got the same Ctrl-C, or is ended now."""
    try:
        process.wait(timeout=EXIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()

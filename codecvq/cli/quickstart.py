"""`codecvq quickstart`: run the main commands in sequence on the bundled corpus."""

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

EXIT_TIMEOUT_S = 3.0  # Ctrl-C in a terminal also reaches the child process; other signals do not


def quickstart(
    run: Annotated[
        Path, typer.Option("--run", help="Folder for all results.", parser=typed_path, metavar="FOLDER")
    ] = Path("runs/quickstart"),
    steps: Annotated[
        int | None, typer.Option(help="Number of training steps. Default: as in the recipe.", min=1)
    ] = None,
) -> None:
    """Train and evaluate a small codec in minutes.

    Trains on bundled speech, encodes and decodes held-out clips, writes tokens and evaluates the codec.

    Run the same command again to resume after an interruption.

    Example: [bold]codecvq quickstart[/]
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
        ("total time", duration(time.monotonic() - start)),
        ("codec", run / "codec"),
        ("compressed", run / "compressed"),
        ("decoded", run / "decoded"),
        ("tokens", run / "tokens"),
        ("report", run / "report" / "index.html"),
    )
    if any(codes):
        raise typer.Exit(1)


def _run_command(*arguments: str, shown: str = "") -> int:
    """Print and run `codecvq ARGUMENTS` in a child process.

    Returns exit code 0, or 1 if some items failed. Raises CodecvqError for any other exit code.
    """
    print_text(f"\n$ {shown or 'codecvq ' + shlex.join(arguments)}", style="bold")
    sys.stdout.flush()
    with subprocess.Popen([sys.executable, "-m", "codecvq", *arguments], env=_environment()) as process:
        try:
            code = process.wait()
        except (KeyboardInterrupt, Terminated):  # let the child process save its state and exit first
            _wait_or_terminate(process)
            raise
    if code not in (0, 1):
        raise CodecvqError(
            f"codecvq {arguments[0]} failed with exit code {code}, see above. Run the same command "
            "again to resume."
        )
    return code


def _environment() -> dict[str, str]:
    """Environment in which `python -m` imports this codecvq and nothing from the working folder."""
    if Path(codecvq.__file__).resolve().parents[1] == Path.cwd():
        return dict(os.environ)
    return os.environ | {"PYTHONSAFEPATH": "1"}


def _wait_or_terminate(process: subprocess.Popen[bytes]) -> None:
    """Wait for a child process that received the same Ctrl-C; terminate it after a timeout."""
    try:
        process.wait(timeout=EXIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()

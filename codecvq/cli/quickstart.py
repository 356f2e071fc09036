"""`codecvq quickstart`: the ordinary verbs, one after another, on the corpus in the box."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from codecvq.cli.console import duration, print_written, say
from codecvq.errors import CodecvqError


def quickstart(
    run: Annotated[Path, typer.Option("--run", help="Folder for everything.")] = Path("runs/quickstart"),
    steps: Annotated[int | None, typer.Option(help="Training steps, instead of the recipe's.")] = None,
) -> None:
    """Train a small codec on real speech, compress and decode held-out clips, evaluate, tokenize: in minutes,
    on a laptop.

    Interrupted, the same command goes on. Example: [bold]codecvq quickstart[/]
    """
    from codecvq.training.corpus import open_corpus

    start = time.monotonic()
    held_out = open_corpus("prompts").split("test")
    files = [str(clip.path) for clip in held_out.clips]
    overrides = [] if steps is None else [f"training.steps={steps}"]
    at = str(run)
    _verb("train", "quickstart", *overrides, "--run", at)
    _verb(
        "encode",
        at,
        *files,
        "--out",
        f"{at}/compressed",
        shown=f"codecvq encode {at} CLIPS --out {at}/compressed",
    )
    _verb("decode", at, f"{at}/compressed", "--out", f"{at}/decoded")
    _verb("tokenize", at, "prompts", "--out", f"{at}/tokens")
    _verb("evaluate", at)
    say()
    print_written(
        ("all of it took", duration(time.monotonic() - start)),
        ("codec", run / "codec"),
        ("compressed", run / "compressed"),
        ("decoded", run / "decoded"),
        ("tokens", run / "tokens"),
        ("report", run / "report" / "index.html"),
    )


def _verb(*arguments: str, shown: str = "") -> None:
    """Run `codecvq ARGUMENTS` as a user would, showing the command line."""
    say(f"\n$ {shown or 'codecvq ' + shlex.join(arguments)}", style="bold")
    sys.stdout.flush()
    done = subprocess.run([sys.executable, "-m", "codecvq", *arguments], check=False)
    if done.returncode:
        raise CodecvqError(
            f"codecvq {arguments[0]} ended with exit {done.returncode}, see above. The same command goes on "
            "from there."
        )

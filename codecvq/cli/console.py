"""What verbs print: results on stdout, progress and warnings on stderr."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from codecvq.plugins import PROJECT, load

# Without a terminal lines are as wide as what reads them likes: 80 columns would cut tables in pieces.
output = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 200)
errors = Console(stderr=True, soft_wrap=True, highlight=False)

PLAIN_EVERY_S = 15.0  # between progress lines where stderr is not a terminal


def _load_plugins(sources: list[str]) -> list[str]:
    for source in sources or []:
        load(source)
    return sources


Plugins = Annotated[
    list[str],
    typer.Option(
        "--plugin",
        help="Load this plugin: a file (./my_vq.py) or a module. Repeatable.",
        callback=_load_plugins,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CodecArgument = Annotated[
    Path,
    typer.Argument(help="A run folder, a saved codec's folder, or a name from: plugins list --kind codecs."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps …; auto takes a GPU where there is one.")]


def log_to_stderr() -> None:
    """Send what the library warns about to stderr, a line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logger = logging.getLogger(PROJECT)
    logger.handlers = [handler]
    logger.propagate = False


def print_json(value: Any) -> None:  # Any: JSON
    """Print JSON, and nothing else, on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table."""
    table = Table(
        *columns, title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold"
    )
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    output.print(table, soft_wrap=False)


def print_written(*paths: tuple[str, Path | str]) -> None:
    """Say what was written and where, as the last thing a verb prints."""
    for what, path in paths:
        output.print(f"{what}: {path}".replace("[", "\\["))


class ProgressLine:
    """A line on stderr that says how far a job is: kept up to date on a terminal, said again every few
    seconds elsewhere.
    """

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self._last_s = 0.0
        self._width = 0

    def show(self, text: str, final: bool = False) -> None:
        """Show `text`; `final` shows it whatever was shown a moment ago."""
        now = time.monotonic()
        if not final and now - self._last_s < (0.1 if self.live else PLAIN_EVERY_S):
            return
        self._last_s = now
        if self.live:
            sys.stderr.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        """End the line."""
        if self.live and self._width:
            sys.stderr.write("\n")


@contextmanager
def progress_line() -> Iterator[ProgressLine]:
    """A progress line that is ended however the block ends."""
    line = ProgressLine()
    try:
        yield line
    finally:
        line.close()


def duration(seconds: float | None) -> str:
    """ "1:05", "2:00:00", or "?" for None."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def time_left(done: int, total: int, elapsed_s: float) -> str:
    """An estimate from how long the part that is done took."""
    return duration(elapsed_s / done * (total - done)) if done else "?"


def pick_device(name: str) -> str:
    """The device that `auto` stands for here, or `name`. Raises OptionError for one that cannot be used."""
    import torch

    from codecvq.transfer import usable_device

    if name != "auto":
        return str(usable_device(name))
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"

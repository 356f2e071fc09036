"""What verbs print: results on stdout, progress and warnings on stderr.

Texts may come from files of strangers and from plugins. Whatever a verb prints goes through the functions
here, which show escape sequences and markup as the characters that they are made of.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from codecvq.cli.paths import typed_path
from codecvq.escaping import json_text, printable
from codecvq.plugins import PROJECT, load

# Without a terminal lines are as wide as what reads them likes: 80 columns would cut tables in pieces.
# Python has no stdout where it is closed (`>&-`).
_TERMINAL = sys.stdout is not None and sys.stdout.isatty()
output = Console(soft_wrap=True, highlight=False, width=None if _TERMINAL else 200)
errors = Console(stderr=True, soft_wrap=True, highlight=False)

PLAIN_EVERY_S = 15.0  # between progress lines where stderr is not a terminal


def _load_plugins(sources: list[str] | None) -> list[str]:  # typer fails on a bare list[str] in Python 3.10
    for source in sources or []:
        load(source)
    return sources or []


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
    typer.Argument(
        help="A run folder, a saved codec's folder, or a name from: plugins list --kind codecs.",
        parser=typed_path,
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps …; auto takes a GPU where there is one.")]


def log_to_stderr(debug: bool = False) -> None:
    """Send what the library warns about to stderr, a line each; with `debug` tracebacks of failures too."""
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter("warning: %(message)s"))
    logger = logging.getLogger(PROJECT)
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.NOTSET)
    logger.propagate = False
    warnings.showwarning = _log_warning


class _LineFormatter(logging.Formatter):
    """A record as one line that prints, whatever its text is; the traceback, if any, below it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # Any: what logging takes
        return printable(super().formatException(ei), keep="\n")


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show what `warnings.warn` says as a line of the log."""
    logging.getLogger(PROJECT).warning("%s", message)


def print_json(value: Any) -> None:  # Any: JSON
    """Print JSON, and nothing else, on stdout."""
    utf8 = "utf" in (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    print(json_text(value) if utf8 else json.dumps(value, indent=2, default=str))


def print_text(text: str = "", style: str = "") -> None:
    """Print text on stdout, as it is: without markup, and what does not print is shown escaped."""
    output.print(_shown(text), style=style or None)


def print_error(text: str, what: str = "error") -> None:
    """Print a line on stderr that says why the command ends."""
    line = printable(" ".join(text.split()))
    errors.print(_shown(f"{what}: ", "bold red" if what == "error" else "") + Text(line))


def _shown(text: str, style: str = "") -> Text:
    return Text(printable(text, keep="\n"), style)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table."""
    shown = _shown(title) if title else None
    table = Table(title=shown, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(_shown(column))
    for row in rows:
        table.add_row(*map(_shown, row))
    output.print(table, soft_wrap=False)


def print_written(*paths: tuple[str, Path | str]) -> None:
    """Say what was written and where, as the last thing a verb prints."""
    for what, path in paths:
        print_text(f"{what}: {path}")


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
        text = printable(text)
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

    def announce(self, text: str) -> None:
        """A line that stays."""
        sys.stderr.write(f"{text}\n")
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


def resolve_device(name: str) -> str:
    """The device that `auto` stands for here, or `name`. Raises OptionError for one that cannot be used."""
    import torch

    from codecvq.transfer import usable_device

    if name != "auto":
        return str(usable_device(name))
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"

"""Output of the commands: results on stdout, progress and warnings on stderr.

Texts may come from untrusted files and plugins. All output goes through the functions of this module, which
escape control sequences and do not interpret markup.
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

# Without a terminal, use wide lines: 80 columns would break tables.
# sys.stdout is None if stdout is closed (`>&-`).
_TERMINAL = sys.stdout is not None and sys.stdout.isatty()
output = Console(soft_wrap=True, highlight=False, width=None if _TERMINAL else 200)
errors = Console(stderr=True, soft_wrap=True, highlight=False)

PLAIN_EVERY_S = 15.0  # time between progress lines if stderr is not a terminal


def _load_plugins(sources: list[str] | None) -> list[str]:  # typer fails on a bare list[str] in Python 3.10
    for source in sources or []:
        load(source)
    return sources or []


Plugins = Annotated[
    list[str],
    typer.Option(
        "--plugin",
        help="Plugin to load: a file (./my_vq.py) or a module. Repeatable.",
        callback=_load_plugins,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
CodecArgument = Annotated[
    Path,
    typer.Argument(
        help="Run folder, codec folder, or name listed by: codecvq plugins list --kind codecs",
        parser=typed_path,
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, …; auto uses a GPU if available.")]


def log_to_stderr(debug: bool = False) -> None:
    """Log warnings of the library to stderr, one line each; with `debug` also tracebacks of failures."""
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter("warning: %(message)s"))
    logger = logging.getLogger(PROJECT)
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.NOTSET)
    logger.propagate = False
    warnings.showwarning = _log_warning


class _LineFormatter(logging.Formatter):
    """Formats a record as one printable line, followed by the traceback if there is one."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # Any: as in logging
        return printable(super().formatException(ei), keep="\n")


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Log a warning of `warnings.warn`."""
    logging.getLogger(PROJECT).warning("%s", message)


def print_json(value: Any) -> None:  # Any: JSON
    """Print a value as JSON on stdout."""
    utf8 = "utf" in (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    print(json_text(value) if utf8 else json.dumps(value, indent=2, default=str))


def print_text(text: str = "", style: str = "") -> None:
    """Print text on stdout without interpreting markup; unprintable characters are escaped."""
    output.print(_shown(text), style=style or None)


def print_error(text: str, what: str = "error") -> None:
    """Print one line on stderr with the reason why the command ends."""
    line = printable(" ".join(text.split()))
    errors.print(_shown(f"{what}: ", "bold red" if what == "error" else "") + Text(line))


def print_note(text: str) -> None:
    """Print one line on stderr."""
    errors.print(_shown(" ".join(text.split())))


def _shown(text: str, style: str = "") -> Text:
    return Text(printable(text, keep="\n"), style)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table on stdout."""
    shown = _shown(title) if title else None
    table = Table(title=shown, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(_shown(column))
    for row in rows:
        table.add_row(*map(_shown, row))
    output.print(table, soft_wrap=False)


def print_written(*paths: tuple[str, Path | str]) -> None:
    """Print `name: path` lines, for the results at the end of a command."""
    for what, path in paths:
        print_text(f"{what}: {path}")


class ProgressLine:
    """A progress line on stderr: updated in place on a terminal, printed every few seconds otherwise."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self._last_s = 0.0
        self._width = 0

    def show(self, text: str, final: bool = False) -> None:
        """Show `text`. `final` shows it even if the last update was a moment ago."""
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
        """Print a permanent line."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def close(self) -> None:
        """End the line."""
        if self.live and self._width:
            sys.stderr.write("\n")


@contextmanager
def progress_line() -> Iterator[ProgressLine]:
    """Context with a progress line, which is closed at the end, also after an exception."""
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
    """Estimate the remaining time from the time of the completed part."""
    return duration(elapsed_s / done * (total - done)) if done else "?"


def resolve_device(name: str) -> str:
    """Resolve `auto` to a device; other names are checked. Raises OptionError for an unusable device."""
    import torch

    from codecvq.transfer import usable_device

    if name != "auto":
        return str(usable_device(name))
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"

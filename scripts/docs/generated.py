"""mkdocs hook: `<!-- generated: NAME -->` in a page becomes a text made from the code.

- `commands`: every command of `codecvq` with its arguments and options;
- `plugins KIND`: a table of the plugins of a kind (`quantizers`, `losses`, ...) that codecvq bundles.

A line `# include: path/of/file.py` in a code block becomes that file of the repository.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PROJECT = "codecvq"
ADDRESSES = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
ROOT = Path(__file__).resolve().parents[2]
INCLUDE = re.compile(r"^# include: (\S+)$", re.MULTILINE)
MARK = re.compile(r"^<!-- generated: ([^>]+?) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the page with its generated parts and included files."""
    return included(filled(markdown))


def included(markdown: str) -> str:
    """Return `markdown` with the text of included files. Raises OSError for a file that does not exist."""
    return INCLUDE.sub(lambda line: (ROOT / line[1]).read_text(encoding="utf-8").rstrip(), markdown)


def filled(markdown: str) -> str:
    """Return `markdown` with every mark replaced. Raises KeyError for an unknown name."""

    def text_of(mark: re.Match[str]) -> str:
        name, *arguments = mark[1].split()
        return GENERATORS[name](*arguments)

    return MARK.sub(text_of, markdown)


def commands() -> str:
    """Return a section for each command, in the order of `codecvq --help`."""
    import typer

    from codecvq.cli.app import app

    return "\n".join(_command_sections(typer.main.get_command(app), "codecvq", depth=2))


def _command_sections(group: Any, path: str, depth: int) -> Iterator[str]:  # Any: typer has its own click
    for name, command in group.commands.items():
        full = f"{path} {name}"
        yield f"{'#' * depth} {full}\n"
        yield f"{_from_rich(command.help or '')}\n"
        if hasattr(command, "commands"):
            yield from _command_sections(command, full, depth + 1)
            continue
        context = command.make_context(full, [], resilient_parsing=True)
        yield f"```text\n{' '.join([full, *command.collect_usage_pieces(context)])}\n```\n"
        records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
        yield _table(
            ("argument or option", "meaning"),
            [(_code(record[0]), _from_rich(record[1])) for record in records if record],
        )


def plugins(kind: str) -> str:
    """Return a table of the bundled plugins of a kind: name, summary, reference."""
    from codecvq.plugins import registry

    rows = [
        (_code(name), registration.spec.summary, _link(registration.spec.reference))
        for name, registration in sorted(registry().all(kind).items())
        if registration.origin.distribution == PROJECT
    ]
    return _table(("name", "what it is", "reference"), rows)


def _link(reference: str) -> str:
    """Return an arXiv id or a DOI as a link, and other text unchanged."""
    scheme, _, rest = reference.partition(":")
    address = ADDRESSES.get(scheme)
    return f"[{reference}]({address}{rest})" if address else reference


def _from_rich(text: str) -> str:
    """Return help text without rich's markup: bold parts are commands, so they become code."""
    text = re.sub(r"\[bold\](.+?)\[/(?:bold)?\]", r"`\1`", text, flags=re.DOTALL)
    text = re.sub(r"(?<!\\)\[/?(?:dim|italic|bold)?\]", "", text).replace("\\[", "[")
    return re.sub(r"(?<!\w)(--[a-z][a-z-]+)", r"`\1`", re.sub(r"`[^`]*`", _protected, text)).replace(
        "\0", "-"
    )


def _protected(code: re.Match[str]) -> str:
    return code[0].replace("--", "\0\0")


def _code(text: str) -> str:
    return f"<code>{html.escape(text).replace('|', '&#124;')}</code>"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table; line ends and bars in cells are escaped."""
    lines = [head, tuple("---" for _ in head)]
    lines += [tuple(re.sub(r"\s+", " ", cell).replace("|", r"\|") for cell in row) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


GENERATORS: dict[str, Callable[..., str]] = {"commands": commands, "plugins": plugins}

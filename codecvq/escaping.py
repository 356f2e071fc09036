"""Text from files and plugins, made harmless for the place where it is shown. HTML uses `html.escape`."""

from __future__ import annotations

import re

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes cells that begin with one of these
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|!~&])")


def printable(text: str, keep: str = "") -> str:
    """The text for a terminal or a log: every character that does not print, escape sequences and lone
    surrogates among them, is shown as `\\x1b` or `\\ud800`; those in `keep`, as a newline, stay.
    """
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign in keep else sign.encode("unicode_escape").decode()
        for sign in text
    )


def csv_cell(text: str) -> str:
    """The text for a cell of a CSV file: an apostrophe in front keeps a spreadsheet from computing it."""
    shown = printable(text, keep="\n")
    return f"'{shown}" if shown.startswith(_FORMULA) and not _is_number(shown) else shown


def markdown(text: str) -> str:
    """The text for a line or a table cell of a Markdown file: shown as it is, without markup or HTML."""
    return _MARKDOWN.sub(r"\\\1", printable(text))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

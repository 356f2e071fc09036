"""Escapes untrusted text for terminals, JSON, CSV and Markdown. HTML uses `html.escape`."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet evaluates cells that begin with these
#: markup characters; an underscore between letters or digits, as in mel_distance, is not markup
_MARKDOWN = re.compile(r"([\\`*{}\[\]<>#|!~&]|(?<![^\W_])_|_(?![^\W_]))")


def printable(text: str, keep: str = "") -> str:
    """Escape a text for a terminal or a log.

    Non-printable characters, including escape sequences and lone surrogates, become `\\x1b` or `\\ud800`.
    Characters in `keep`, such as a newline, stay.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if _is_printable(character) or character in keep
        else character.encode("unicode_escape").decode()
        for character in text
    )


def json_text(value: Any) -> str:  # Any: JSON
    """Return a value as JSON for a terminal or a pipe.

    Non-printable characters are escaped, so that the text can be encoded and contains no escape sequence.
    Letters of all languages stay.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    if text.isascii():  # json.dumps has escaped the control characters
        return text
    return "".join(
        character if _is_printable(character) or character == "\n" else json.dumps(character)[1:-1]
        for character in text
    )


def csv_cell(text: str) -> str:
    """Escape a text for a CSV cell. Quotes and separators are left to the `csv` module.

    Adds an apostrophe before a text that a spreadsheet would evaluate as a formula.
    """
    shown = printable(text, keep="\n")
    return f"'{shown}" if shown.startswith(_FORMULA) and not _is_number(shown) else shown


def markdown(text: str) -> str:
    """Escape a text for a line or a table cell of Markdown, so that it contains no markup or HTML."""
    return _MARKDOWN.sub(r"\\\1", printable(text))


def _is_printable(character: str) -> bool:
    """Whether a character is printable or a space; `str.isprintable` accepts only the ASCII space."""
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

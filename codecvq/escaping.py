"""Text from files and plugins, made harmless for the place where it is shown. HTML uses `html.escape`."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes cells that begin with one of these
#: an underscore between letters or digits is one, as in mel_distance
_MARKDOWN = re.compile(r"([\\`*{}\[\]<>#|!~&]|(?<![^\W_])_|_(?![^\W_]))")


def printable(text: str, keep: str = "") -> str:
    """The text for a terminal or a log: every character that does not print, escape sequences and lone
    surrogates among them, is shown as `\\x1b` or `\\ud800`; those in `keep`, as a newline, stay.
    """
    if text.isprintable():
        return text
    return "".join(
        sign if _prints(sign) or sign in keep else sign.encode("unicode_escape").decode() for sign in text
    )


def json_text(value: Any) -> str:  # Any: JSON
    """The JSON of a value for a terminal or a pipe: what does not print is escaped, so that it can be encoded
    and sends no escape sequence; letters of all languages stay.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    if text.isascii():  # JSON has escaped the control characters
        return text
    return "".join(sign if _prints(sign) or sign == "\n" else json.dumps(sign)[1:-1] for sign in text)


def csv_cell(text: str) -> str:
    """The text for a cell of a CSV file: an apostrophe in front keeps a spreadsheet from computing it."""
    shown = printable(text, keep="\n")
    return f"'{shown}" if shown.startswith(_FORMULA) and not _is_number(shown) else shown


def markdown(text: str) -> str:
    """The text for a line or a table cell of a Markdown file: shown as it is, without markup or HTML."""
    return _MARKDOWN.sub(r"\\\1", printable(text))


def _prints(sign: str) -> bool:
    """Whether it has a shape or is a space: Python calls only the ASCII space printable."""
    return sign.isprintable() or unicodedata.category(sign) == "Zs"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

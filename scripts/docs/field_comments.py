"""griffe extension: comments of a class's fields become the section "Attributes" of its page.

    path: Path  # the file

A comment stands on the field's line, or on the lines before it. Fields without a comment are not listed.
"""

from __future__ import annotations

import io
import tokenize
from typing import Any

import griffe


class FieldComments(griffe.Extension):
    """Appends the section to the docstring of a class."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Read the comments of the fields of a class."""
        fields = {
            name: comment
            for name, member in cls.members.items()
            if member.is_attribute and not name.startswith("_") and not member.docstring
            if (comment := field_comment(member))
        }
        if fields and cls.docstring:
            lines = "\n".join(f"    {name}: {comment}" for name, comment in fields.items())
            cls.docstring.value += f"\n\nAttributes:\n{lines}\n"


def field_comment(field: griffe.Attribute) -> str:
    """Return the comment of a field in one line, or ""."""
    if field.lineno is None or field.endlineno is None:
        return ""
    lines = field.lines_collection[field.filepath]
    comment = trailing_comment(lines[field.lineno - 1 : field.endlineno])
    if comment:
        return comment
    first = field.lineno - 1
    while first and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    above = [line.strip().lstrip("#:").strip() for line in lines[first : field.lineno - 1]]
    return " ".join(above)


def trailing_comment(lines: list[str]) -> str:
    """Return the comments within the lines of a statement, joined, or ""."""
    source = "\n".join(line.strip() for line in lines) + "\n"
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, IndentationError):
        return ""
    found = [token.string.lstrip("#:").strip() for token in tokens if token.type == tokenize.COMMENT]
    return " ".join(text for text in found if not text.startswith(("type:", "noqa")))

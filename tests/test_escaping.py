"""Escaping of untrusted text for terminals, CSV and Markdown."""

from __future__ import annotations

import pytest

from codecvq.escaping import csv_cell, markdown, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä 🎤", "plain ä 🎤"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb", "a\\nb"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("a\ud800b", "a\\ud800b"),
    ],
)
def test_unprintable_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode("utf-8")


def test_newlines_are_preserved_if_requested() -> None:
    assert printable("a\nb\r", keep="\n") == "a\nb\\r"


@pytest.mark.parametrize("text", ["=1+1", "@SUM(A1)", "-cmd|' /C calc'!A0", "+1-1", "\t=1"])
def test_formulas_are_escaped_in_csv_cells(text: str) -> None:
    assert csv_cell(text)[0] not in "=+-@\t\r"


@pytest.mark.parametrize("text", ["-1.5", "1e-3", "a=b", "LJ001", ""])
def test_numbers_and_plain_cells_are_unchanged(text: str) -> None:
    assert csv_cell(text) == text


def test_markdown_markup_is_escaped() -> None:
    assert markdown("[a](b)|<i>\n# c") == "\\[a\\](b)\\|\\<i\\>\\\\n\\# c"

"""The check of words finds phrases in Python, pages and notebooks. `make lint` runs it on the tree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.plain_words import Vocabulary, problems

VOCABULARY = Vocabulary.read()
PLACES = {
    "module docstring": ("a.py", '"""Nobody reads this."""\n', 1),
    "docstring": ("a.py", 'def f():\n    """Value.\n\n    Nobody reads this.\n    """\n', 4),
    "comment": ("a.py", "x = 1  # nobody reads this\n", 1),
    "message": ("a.py", 'raise ValueError("nobody reads this")\n', 1),
    "f-string": ("a.py", 'raise ValueError(f"{x}: nobody reads this")\n', 1),
    "page": ("a.md", "# Title\n\nNobody reads this.\n", 3),
    "recipe": ("a.yaml", "steps: 3  # nobody reads this\n", 1),
    "notebook": ("a.ipynb", json.dumps({"cells": [{"source": ["Nobody ", "reads this."]}]}), 1),
}


def problems_of(folder: Path, name: str, text: str) -> list[str]:
    (folder / name).write_text(text, encoding="utf-8")
    return list(problems(folder / name, name, VOCABULARY))


@pytest.mark.parametrize("place", PLACES)
def test_a_phrase_of_the_vocabulary_is_found_with_its_line(place: str, tmp_path: Path) -> None:
    name, text, line = PLACES[place]
    (problem,) = problems_of(tmp_path, name, text)
    assert problem.startswith(f"{name}:{line}: ")
    assert "'nobody'" in problem.lower()


def test_names_in_backquotes_are_not_words(tmp_path: Path) -> None:
    assert problems_of(tmp_path, "a.md", "The option `nobody` is gone. ``nobody`` too.\n") == []
    assert problems_of(tmp_path, "a.md", "```text\na fenced block\n```\n\nThe option `nobody`.\n") == []


def test_a_phrase_over_two_lines_is_problems_of(tmp_path: Path) -> None:
    for text in ('"""Value.\n\nThe run goes\non here."""\n', "x = 1\n\n# The run goes\n# on here.\n"):
        (problem,) = problems_of(tmp_path, "a.py", text)
        assert problem.startswith("a.py:3: ")
        assert "goes" in problem


@pytest.mark.parametrize(
    ("docstring", "wrong"),
    [
        ("Codes of a batch.", False),
        ("Codes:\n\n    one a line", False),
        ("Codes of a batch", True),
        (" ".join(["word"] * VOCABULARY.first_sentence_words) + ".", False),
        (" ".join(["word"] * (VOCABULARY.first_sentence_words + 1)) + ".", True),
    ],
)
def test_first_sentences_are_short_and_end(docstring: str, wrong: bool, tmp_path: Path) -> None:
    text = f'def f():\n    """{docstring}\n    """\n'
    assert bool(problems_of(tmp_path, "a.py", text)) is wrong

"""Checks the words of docstrings, comments, messages and pages; `make lint` runs it.

`scripts/plain_words.yaml` lists phrases that must not come back, each with what to write instead. The first
sentence of every docstring has at most `first_sentence_words` words and ends with a period.

    python scripts/plain_words.py [FILE ...]        # all tracked files by default
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = ROOT / "scripts" / "plain_words.yaml"
# Text in backquotes is code, not words. Fences (```) are matched first, so that they do not pair with others.
MARKED_CODE = re.compile(r"```|``.*?``|`[^`]*`", re.DOTALL)
SPACE = r"[\s#]+"  # replaces each space of a phrase, so that it is found across the lines of a comment


@dataclass(frozen=True)
class Phrase:
    """A phrase that must not occur, and what to write instead."""

    pattern: re.Pattern[str]
    instead: str
    except_in: tuple[str, ...]  # paths, relative to the root


@dataclass(frozen=True)
class Vocabulary:
    """The rules of `plain_words.yaml`."""

    phrases: tuple[Phrase, ...]
    first_sentence_words: int
    skip: tuple[str, ...]  # paths that are not checked: text by others, and the vocabulary itself

    @classmethod
    def read(cls, path: Path = VOCABULARY) -> Vocabulary:
        """Rules of the YAML file `path`. Raises `re.error` for a pattern that does not compile."""
        rules = yaml.safe_load(path.read_text(encoding="utf-8"))
        phrases = tuple(
            Phrase(
                re.compile(entry["phrase"].replace(" ", SPACE), re.IGNORECASE),
                entry["instead"],
                tuple(entry.get("except", ())),
            )
            for entry in rules["phrases"]
        )
        return cls(phrases, rules["first_sentence_words"], tuple(rules["skip"]))


@dataclass(frozen=True)
class Passage:
    """A piece of prose and the line of its file at which it starts."""

    line: int
    text: str
    is_docstring: bool = False


def passages_of_python(source: str) -> Iterator[Passage]:
    """Docstrings, comments and strings of a Python file. Strings of one word are names and are skipped."""
    tree = ast.parse(source)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings.add(id(first.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) > 1:
            yield Passage(node.lineno, node.value, is_docstring=id(node) in docstrings)
    lines: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines.append((token.start[0], token.string))
    yield from _comments(lines)


def _comments(lines: list[tuple[int, str]]) -> Iterator[Passage]:
    """Comments, with those on adjacent lines joined."""
    start = 0
    for end in range(1, len(lines) + 1):
        if end == len(lines) or lines[end][0] != lines[end - 1][0] + 1:
            yield Passage(lines[start][0], "\n".join(text for _, text in lines[start:end]))
            start = end


def passages_of_notebook(source: str) -> Iterator[Passage]:
    """Markdown and code cells of a notebook; the line is the number of the cell."""
    for number, cell in enumerate(json.loads(source)["cells"], start=1):
        yield Passage(number, "".join(cell["source"]))


def passages(path: Path) -> Iterator[Passage]:
    """All prose of a file."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from passages_of_python(source)
    elif path.suffix == ".ipynb":
        yield from passages_of_notebook(source)
    else:
        yield Passage(1, source)


def first_sentence(docstring: str) -> str:
    """Text of a docstring up to its first period, colon or blank line."""
    return re.split(r"(?<=[.:])\s|\n\s*\n", docstring.strip(), maxsplit=1)[0]


def problems(path: Path, name: str, vocabulary: Vocabulary) -> Iterator[str]:
    """One line for each passage of `path` that breaks a rule. `name` is its path relative to the root."""
    phrases = [phrase for phrase in vocabulary.phrases if name not in phrase.except_in]
    for passage in passages(path):
        words = MARKED_CODE.sub(lambda code: "`" + "\n" * code[0].count("\n") + "`", passage.text)
        for phrase in phrases:
            for match in phrase.pattern.finditer(words):
                line = passage.line + words[: match.start()].count("\n")
                yield f"{name}:{line}: {' '.join(match[0].split())!r}. Instead: {phrase.instead}"
        if passage.is_docstring and not name.startswith("tests/"):
            sentence = first_sentence(passage.text)
            count = len(sentence.split())
            if count > vocabulary.first_sentence_words:
                limit = vocabulary.first_sentence_words
                yield f"{name}:{passage.line}: first sentence has {count} words, at most {limit} are allowed"
            if sentence[-1:] not in set(".:?`"):
                yield f"{name}:{passage.line}: first sentence does not end with a period"


def tracked_files() -> list[str]:
    """Tracked Python files, pages, recipes, notebooks and templates."""
    patterns = ["*.py", "*.md", "*.yaml", "*.yml", "*.ipynb", "*.toml", "*.cff", "Makefile", ".ci/*"]
    done = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in done.stdout.splitlines() if not name.endswith(".txt")]


def main() -> int:
    """Prints all problems. The exit code is 1 if there is one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", help="all tracked files by default")
    given = parser.parse_args().files
    names = [Path(name).resolve().relative_to(ROOT).as_posix() for name in given] or tracked_files()
    vocabulary = Vocabulary.read()
    lines = [
        problem
        for name in names
        if not name.startswith(vocabulary.skip) and (ROOT / name).is_file()
        for problem in problems(ROOT / name, name, vocabulary)
    ]
    print(*lines, sep="\n", end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())

"""Files of records (JSON lines, or tables with a header) with random access to each record."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from codecvq.data.manifest_row import Row
from codecvq.data.record_file import RecordFile
from codecvq.errors import CorpusError
from codecvq.escaping import printable
from codecvq.json_file import parse_json

DELIMITERS = {".csv": ",", ".tsv": "\t"}


class Position(NamedTuple):
    """The position of a record in its file."""

    offset: int  # in bytes
    line: int  # from 1


class Record(NamedTuple):
    """A record, or the error for an invalid one."""

    position: Position
    row: Row
    error: CorpusError | None = None


class LineReader:
    """Iterates over the decoded lines of a file; `position` is the position of the next line."""

    def __init__(self, file: RecordFile, name: str, position: Position) -> None:
        self.position = position
        self._name, self._lines = name, file.lines(position.offset)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Return the next line. Raises CorpusError if it is not UTF-8."""
        try:
            offset, content = next(self._lines)
        except ValueError as error:
            raise CorpusError(f"{self._name} cannot be read: {error}. Repair it.") from error
        except OSError as error:
            raise CorpusError(f"{self._name} cannot be read ({error.strerror}).") from error
        self.position = Position(offset + len(content), self.position.line + 1)
        try:
            return content.decode("utf-8-sig" if offset == 0 else "utf-8")
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{self._name} is not UTF-8 text ({error.reason} at byte {offset + error.start}). Save it as "
                "UTF-8."
            ) from error


class Table:
    """The records of a file. Raises CorpusError for an invalid header."""

    def __init__(self, path: Path, kind: str = "manifest") -> None:
        self.path, self.name = path, f"{kind} {printable(str(path))}"
        try:
            self._file = RecordFile(path)
        except OSError as error:
            raise CorpusError(f"{self.name} cannot be read ({error.strerror}).") from error
        self.start, self.header = Position(0, 1), list[str]()
        if self.delimiter:
            lines = LineReader(self._file, self.name, self.start)
            self.header = self._cells(lines) or []
            self.start = lines.position
            if duplicates := sorted({column for column in self.header if self.header.count(column) > 1}):
                raise CorpusError(
                    f"{self.name}: two columns are named {duplicates[0]!r}. Rename one of them."
                )

    @property
    def delimiter(self) -> str:
        """Delimiter of the cells; "" for JSON lines."""
        return DELIMITERS.get(self.path.suffix.lower(), "")

    def __iter__(self) -> Iterator[Record]:
        """Yield every record that is not blank.

        A damaged record has its `error` set, and reading continues after it.
        """
        lines = LineReader(self._file, self.name, self.start)
        while True:
            position = lines.position
            try:
                row = self._next(lines, position)
            except CorpusError as error:
                if lines.position == position:  # no progress: the rest of the file cannot be read
                    raise
                yield Record(position, {}, error)
                continue
            if row is None:
                return
            if row:
                yield Record(position, row)

    def row(self, position: Position) -> Row:
        """Return the row of the record at a position. Raises CorpusError if it is damaged."""
        return self._next(LineReader(self._file, self.name, position), position) or {}

    def _next(self, lines: LineReader, position: Position) -> Row | None:
        """Return the next record; empty if blank, None at the end of the file."""
        if self.delimiter:
            return self._next_table_row(lines)
        text = next(lines, None)
        if text is None or not text.strip():
            return None if text is None else {}
        origin, advice = f"{self.name}, line {position.line},", "Repair or remove the line."
        return parse_json(text, origin, error=CorpusError, advice=advice)

    def _next_table_row(self, lines: LineReader) -> Row | None:
        cells = self._cells(lines)
        if not cells:
            return None if cells is None else {}
        if len(cells) != len(self.header):
            more = "more" if len(cells) > len(self.header) else "fewer"
            raise CorpusError(
                f"{self.name}, line {lines.position.line - 1}: the row has {more} columns than the header. "
                "Repair it."
            )
        return dict(zip(self.header, cells, strict=True))

    def _cells(self, lines: LineReader) -> list[str] | None:
        # Tab-separated values have no quoting: a quote at the start of a sentence is part of the text.
        quoting: Literal[0, 3] = csv.QUOTE_NONE if self.delimiter == "\t" else csv.QUOTE_MINIMAL
        try:
            return next(csv.reader(lines, delimiter=self.delimiter, quoting=quoting, strict=True), None)
        except csv.Error as error:
            raise CorpusError(
                f"{self.name}: {error}, near line {lines.position.line - 1}. Repair the quotes there."
            ) from error

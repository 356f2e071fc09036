"""Files of records, JSON lines or tables with a header, of which each record can be read by itself."""

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


class Place(NamedTuple):
    """Where a record begins."""

    offset: int  # byte
    line: int  # from 1


class Record(NamedTuple):
    """A record, or why it is none."""

    place: Place
    row: Row
    error: CorpusError | None = None


class Lines:
    """The text of the lines of a file from a place on, and the place of the line that follows."""

    def __init__(self, file: RecordFile, name: str, place: Place) -> None:
        self.place = place
        self._name, self._lines = name, file.lines(place.offset)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """The next line. Raises CorpusError where it is not text."""
        try:
            at, content = next(self._lines)
        except ValueError as error:
            raise CorpusError(f"{self._name} cannot be read: {error}. Repair it.") from error
        except OSError as error:
            raise CorpusError(f"{self._name} cannot be read ({error.strerror}).") from error
        self.place = Place(at + len(content), self.place.line + 1)
        try:
            return content.decode("utf-8-sig" if at == 0 else "utf-8")
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{self._name} is not UTF-8 text ({error.reason} at byte {at + error.start}). Save it as "
                "UTF-8."
            ) from error


class Table:
    """The records of a file. Raises CorpusError for a header that cannot be used."""

    def __init__(self, path: Path, what: str = "manifest") -> None:
        self.path, self.name = path, f"{what} {printable(str(path))}"
        try:
            self._file = RecordFile(path)
        except OSError as error:
            raise CorpusError(f"{self.name} cannot be read ({error.strerror}).") from error
        self.begin, self.header = Place(0, 1), list[str]()
        if self.delimiter:
            lines = Lines(self._file, self.name, self.begin)
            self.header = self._cells(lines) or []
            self.begin = lines.place
            if twice := sorted({column for column in self.header if self.header.count(column) > 1}):
                raise CorpusError(f"{self.name}: two columns are called {twice[0]!r}. Rename one of them.")

    @property
    def delimiter(self) -> str:
        """Between the cells of a table; "" for JSON lines."""
        return DELIMITERS.get(self.path.suffix.lower(), "")

    def __iter__(self) -> Iterator[Record]:
        """Every record that is not blank. One that is damaged comes with its error, which the caller raises
        or lists; reading goes on behind it.
        """
        lines = Lines(self._file, self.name, self.begin)
        while True:
            place = lines.place
            try:
                row = self._next(lines, place)
            except CorpusError as error:
                if lines.place == place:  # nothing more can be read
                    raise
                yield Record(place, {}, error)
                continue
            if row is None:
                return
            if row:
                yield Record(place, row)

    def row(self, place: Place) -> Row:
        """The record at a place. Raises CorpusError where there is none any more."""
        return self._next(Lines(self._file, self.name, place), place) or {}

    def _next(self, lines: Lines, place: Place) -> Row | None:
        """The record that begins here; empty for a blank one, None at the end of the file."""
        if self.delimiter:
            return self._next_of_table(lines)
        text = next(lines, None)
        if text is None or not text.strip():
            return None if text is None else {}
        origin, advice = f"{self.name}, line {place.line},", "Repair or remove the line."
        return parse_json(text, origin, error=CorpusError, advice=advice)

    def _next_of_table(self, lines: Lines) -> Row | None:
        cells = self._cells(lines)
        if not cells:
            return None if cells is None else {}
        if len(cells) != len(self.header):
            more = "more" if len(cells) > len(self.header) else "fewer"
            raise CorpusError(
                f"{self.name}, line {lines.place.line - 1}: it has {more} columns than the header. Repair it."
            )
        return dict(zip(self.header, cells, strict=True))

    def _cells(self, lines: Lines) -> list[str] | None:
        # Tab-separated values have no quotes: one that begins a sentence belongs to it.
        quoting: Literal[0, 3] = csv.QUOTE_NONE if self.delimiter == "\t" else csv.QUOTE_MINIMAL
        try:
            return next(csv.reader(lines, delimiter=self.delimiter, quoting=quoting, strict=True), None)
        except csv.Error as error:
            raise CorpusError(
                f"{self.name}: {error}, near line {lines.place.line - 1}. Repair the quotes there."
            ) from error

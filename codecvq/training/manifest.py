"""Manifests: a file that lists clips, JSON lines or a table with a header (CSV, TSV).

One column names the audio, relative to the manifest's folder; those of `FIELDS` are understood under each of
their names, and every other column travels with its clip, untouched. So the manifests of NeMo
(`audio_filepath`, `offset`), of Hugging Face's audio folders (`file_name`) and of Common Voice (`path` below
`clips/`, `sentence`) are read as they are.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codecvq.errors import CorpusError
from codecvq.training.corpus import Clip, ClipFailure, Corpus

#: what a clip has -> the names a column may have for it, the first one found in a row counts
FIELDS: dict[str, tuple[str, ...]] = {
    "path": ("path", "audio", "audio_filepath", "file", "file_name"),
    "id": ("id",),
    "text": ("text", "transcript", "sentence"),
    "speaker": ("speaker", "speaker_id"),
    "language": ("language", "lang", "locale"),
    "licence": ("licence", "license"),
    "split": ("split",),
    "start": ("start", "start_s", "offset"),
    "duration": ("duration", "duration_s"),
}
#: what others call the splits
SPLIT_NAMES = {"dev": "validation", "valid": "validation", "val": "validation", "eval": "test"}
DELIMITERS = {".csv": ",", ".tsv": "\t"}
CLIPS_FOLDER = "clips"  # where Common Voice keeps the files that its tables name

Row = Mapping[str, Any]  # Any: JSON values, or strings from a table


def read_manifest(path: Path) -> Corpus:
    """The corpus that a manifest lists; a missing file is a listed failure, a broken row a CorpusError."""
    if not path.is_file():
        raise CorpusError(
            f"the manifest {path} {'is a folder' if path.is_dir() else 'does not exist'}. Give a .jsonl, "
            ".csv or .tsv file."
        )
    clips, failures, rows_of_ids = [], [], dict[str, int]()
    for line, row in _rows(path):
        clip = _clip(path, line, row)
        if clip.id in rows_of_ids:
            raise CorpusError(
                f"manifest {path}: lines {rows_of_ids[clip.id]} and {line} have the same id {clip.id!r}. "
                "Give each row an id of its own."
            )
        rows_of_ids[clip.id] = line
        if clip.path.is_file():
            clips.append(clip)
        else:
            why = f"line {line} of {path.name}: the file {clip.path} does not exist"
            failures.append(ClipFailure(clip.id, clip.path, why))
    if not clips:
        first = f"none of its {len(failures)} files exists, the first: {failures[0].path}" if failures else ""
        what = first or "it has no rows"
        raise CorpusError(
            f"manifest {path}: {what}. Paths count from the manifest's folder, {path.parent.resolve()}."
        )
    return Corpus(path.stem, tuple(clips), failures=tuple(failures))


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Line number and row, for every row that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if delimiter := DELIMITERS.get(path.suffix.lower()):
                # Tab-separated values have no quotes: one that begins a sentence belongs to it.
                raw = delimiter == "\t"
                table = csv.DictReader(
                    file,
                    delimiter=delimiter,
                    quoting=csv.QUOTE_NONE if raw else csv.QUOTE_MINIMAL,
                    strict=True,
                )
                for row in table:
                    yield table.line_num, _whole_row(path, table.line_num, row)
                return
            for line, text in enumerate(file, start=1):
                if text.strip():
                    yield line, _json_row(path, line, text)
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"manifest {path} is not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8."
        ) from error
    except csv.Error as error:
        raise CorpusError(
            f"manifest {path}: {error}, near line {table.line_num}. Repair the quotes there."
        ) from error


def _json_row(path: Path, line: int, text: str) -> Row:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise CorpusError(
            f"manifest {path}, line {line}: not JSON ({error.msg}, column {error.colno}). Repair or "
            "remove it."
        ) from error
    if not isinstance(row, dict):
        raise CorpusError(
            f"manifest {path}, line {line}: {text.strip()[:60]!r} is no JSON object. Each line must be one."
        )
    return row


def _whole_row(path: Path, line: int, row: dict[str | Any, Any]) -> Row:  # Any: DictReader's restkey is None
    if None in row or None in row.values():
        raise CorpusError(
            f"manifest {path}, line {line}: it has {'more' if None in row else 'fewer'} columns than the "
            "header. Repair it."
        )
    return row


@dataclass(frozen=True)
class _Taken:
    """A row, sorted into what a clip has and what is the manifest's own."""

    fields: dict[str, Any]
    columns: dict[str, Any]


def _take(row: Row) -> _Taken:
    fields, columns = {}, dict(row)
    for field, names in FIELDS.items():
        name = next((name for name in names if row.get(name) not in (None, "")), None)
        if name is not None:
            fields[field] = columns.pop(name)
    return _Taken(fields, columns)


def _clip(manifest: Path, line: int, row: Row) -> Clip:
    where = f"manifest {manifest}, line {line}"
    taken = _take(row)
    file = taken.fields.get("path")
    if not isinstance(file, str):
        raise CorpusError(
            f"{where}: no column names the audio. It has {', '.join(map(repr, row)) or 'none'}; "
            f"name one of them {' or '.join(FIELDS['path'])}, with a path in it."
        )
    start_s, duration_s = _seconds(where, taken, "start", 0.0), _seconds(where, taken, "duration", None)
    if duration_s == 0:
        raise CorpusError(f"{where}: its duration is 0 s. Leave the column empty to have the whole file.")
    split = str(taken.fields.get("split", ""))
    return Clip(
        id=str(taken.fields.get("id", _default_id(file, start_s if "start" in taken.fields else None))),
        path=_locate(manifest.parent, file),
        split=SPLIT_NAMES.get(split, split),
        start_s=start_s or 0.0,
        duration_s=duration_s,
        # a duration alone describes the file, often rounded; it cuts nothing
        open_end="start" not in taken.fields,
        columns=taken.columns,
        **{name: str(taken.fields.get(name, "")) for name in ("text", "speaker", "language", "licence")},
    )


def _locate(folder: Path, file: str) -> Path:
    path = folder / Path(file).expanduser()
    below = folder / CLIPS_FOLDER / file
    return below if not path.is_file() and below.is_file() else path


def _default_id(file: str, start_s: float | None) -> str:
    """The path as the manifest has it, without its suffix; with the start, where a file may have many."""
    name = os.path.splitext(Path(file).as_posix())[0].lstrip("/")
    return name if start_s is None else f"{name}@{start_s:g}"


def _seconds(where: str, taken: _Taken, name: str, default: float | None) -> float | None:
    if name not in taken.fields:
        return default
    try:
        value = float(taken.fields[name])
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise CorpusError(f"{where}: {name} is {taken.fields[name]!r}, but seconds from 0 up are needed.")
    return value

"""Manifests: a file that lists clips, JSON lines or a table with a header (CSV, TSV).

One column names the audio, relative to the manifest's folder; those of `NAMES` are understood under each of
their names, and every other column travels with its clip, untouched. So the manifests of NeMo
(`audio_filepath`, `offset`), of Hugging Face's audio folders (`file_name`) and of Common Voice (`path` below
`clips/`, `sentence`) are read as they are. `manifest_row` says what each column means.
"""

from __future__ import annotations

import csv
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from codecvq.data.clip import Clip, ClipFailure
from codecvq.data.corpus import Corpus, split_by_content
from codecvq.data.manifest_row import NAMES, Row, read_row
from codecvq.data.text import writable
from codecvq.errors import CorpusError
from codecvq.escaping import printable
from codecvq.json_file import parse_json

__all__ = ["NAMES", "read_manifest"]

DELIMITERS = {".csv": ",", ".tsv": "\t"}
CLIPS_FOLDER = "clips"  # where Common Voice keeps the files that its tables name


def read_manifest(path: Path) -> Corpus:
    """The corpus that a manifest lists; a missing file is a listed failure, a broken row a CorpusError."""
    _check_file(path)
    clips, failures, rows_of_ids = list[Clip](), list[ClipFailure](), dict[str, int]()
    named = set[str]()  # ids that the manifest gives
    for line, row in _rows(path):
        clip, has_id = _clip(path, line, row)
        if clip.id in rows_of_ids:
            raise CorpusError(
                f"manifest {_shown(path)}: lines {rows_of_ids[clip.id]} and {line} have the same id "
                f"{clip.id!r}. Give each row an id of its own."
            )
        rows_of_ids[clip.id] = line
        if has_id or clip.split:
            named.add(clip.id)
        if why := _unusable(clip.path):
            failures.append(ClipFailure(clip.id, clip.path, f"line {line} of {_shown(path.name)}: {why}"))
        else:
            clips.append(clip)
    if not clips:
        first = (
            f"none of its {len(failures)} files can be used, the first: {failures[0].error}"
            if failures
            else ""
        )
        what = first or "it has no rows"
        raise CorpusError(
            f"manifest {_shown(path)}: {what}. Paths count from the manifest's folder, "
            f"{_shown(path.parent.resolve())}."
        )
    by_content = iter(split_by_content([clip for clip in clips if clip.id not in named]))
    split = tuple(clip if clip.id in named else next(by_content) for clip in clips)
    return Corpus(writable(path.stem), split, failures=tuple(failures))


def _check_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        why = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be opened ({error})"
    else:
        if stat.S_ISREG(mode):
            return
        why = "is a folder" if stat.S_ISDIR(mode) else "is no regular file"
    raise CorpusError(f"the manifest {_shown(path)[:300]} {why}. Give a .jsonl, .csv or .tsv file.")


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Line number and row, for every row that is not blank."""
    name = _shown(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() in DELIMITERS:
                yield from _table(name, file, DELIMITERS[path.suffix.lower()])
                return
            for line, text in enumerate(file, start=1):
                if text.strip():
                    origin, advice = f"manifest {name}, line {line},", "Repair or remove the line."
                    yield line, parse_json(text, origin, error=CorpusError, advice=advice)
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"manifest {name} is not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8."
        ) from error
    except OSError as error:
        raise CorpusError(f"manifest {name} cannot be read ({error.strerror}).") from error


def _table(name: str, file: Iterable[str], delimiter: str) -> Iterator[tuple[int, Row]]:
    # Tab-separated values have no quotes: one that begins a sentence belongs to it.
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    table = csv.DictReader(file, delimiter=delimiter, quoting=quoting, strict=True)
    try:
        header = list(table.fieldnames or ())
        if twice := sorted({column for column in header if header.count(column) > 1}):
            raise CorpusError(f"manifest {name}: two columns are called {twice[0]!r}. Rename one of them.")
        for row in table:
            if None in row or None in row.values():
                raise CorpusError(
                    f"manifest {name}, line {table.line_num}: it has {'more' if None in row else 'fewer'} "
                    "columns than the header. Repair it."
                )
            yield table.line_num, row
    except csv.Error as error:
        raise CorpusError(
            f"manifest {name}: {error}, near line {table.line_num}. Repair the quotes there."
        ) from error


def _clip(manifest: Path, line: int, row: Row) -> tuple[Clip, bool]:
    """The clip of a row, and whether the row has an id for it."""
    where = f"manifest {_shown(manifest)}, line {line}"
    taken = read_row(where, row)
    id_ = taken.id or _default_id(taken.path, taken.start_s if taken.is_part else None, taken.channel)
    clip = Clip(
        id=id_,
        path=_locate(manifest.parent, taken.path),
        text=taken.text,
        speaker=taken.speaker,
        language=taken.language,
        licence=taken.licence,
        split=taken.split,
        start_s=taken.start_s,
        duration_s=taken.duration_s,
        open_end=not taken.is_part,  # a duration alone describes the file, often rounded; it cuts nothing
        channel=taken.channel,
        columns=taken.columns,
    )
    return clip, bool(taken.id)


def _locate(folder: Path, file: str) -> Path:
    try:
        path = folder / Path(file).expanduser()
    except RuntimeError:  # ~nosuchuser
        path = folder / file
    below = folder / CLIPS_FOLDER / file
    return below if _unusable(path) and not _unusable(below) else path


def _unusable(path: Path) -> str:
    """Why a path is no file to read from; "" where it is one."""
    shown = _shown(path)[:300]
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        remote = "://" in str(path) or ":/" in str(path)
        return f"the file {shown} does not exist" + (" (remote files are not downloaded)" if remote else "")
    except (OSError, ValueError) as error:  # too long a name, no permission, a NUL
        return f"the file {shown} cannot be opened ({getattr(error, 'strerror', None) or error})"
    return "" if stat.S_ISREG(mode) else f"{shown} is no regular file"


def _default_id(file: str, start_s: float | None, channel: int | None) -> str:
    """The path as the manifest has it, without its suffix; with start and channel, where a file has many."""
    name = os.path.splitext(Path(file).as_posix())[0].lstrip("/") or file
    name += "" if start_s is None else f"@{start_s:g}"
    return name if channel is None else f"{name}#{channel}"


def _shown(path: Path | str) -> str:
    return printable(str(path))

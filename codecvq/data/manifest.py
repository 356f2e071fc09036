"""Manifests: a file that lists clips, JSON lines or a table with a header (CSV, TSV).

One column names the audio, relative to the manifest's folder; those of `NAMES` are understood under each of
their names, and every other column travels with its clip, untouched. So the manifests of NeMo
(`audio_filepath`, `offset`), of Hugging Face's audio folders (`file_name`) and of Common Voice (`path` below
`clips/`, `sentence`) are read as they are. `manifest_row` says what each column means.

Every row is read and checked when a manifest is opened. What stays in memory is where it begins; the row is
read again when its clip is used.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from codecvq.data.clip import Clip
from codecvq.data.clips import ClipListing
from codecvq.data.manifest_row import NAMES, Row, read_row
from codecvq.data.table import Table
from codecvq.data.table_clips import BuiltClip, table_listing
from codecvq.errors import CorpusError
from codecvq.escaping import printable

__all__ = ["NAMES", "read_manifest"]

CLIPS_FOLDER = "clips"  # where Common Voice keeps the files that its tables name


def read_manifest(source: str | os.PathLike[str]) -> ClipListing:
    """The clips that a manifest lists; a missing file is a listed failure, a broken row a CorpusError."""
    path = Path(source)
    _check_file(path)
    listing = table_listing(Table(path), ManifestClipBuilder(path.parent), strict=True)
    if not listing.clips:
        failures = listing.failures
        first = (
            f"none of its {len(failures)} files can be used, the first: {failures[0].error}"
            if failures
            else ""
        )
        what = first or "it has no rows"
        raise CorpusError(
            f"manifest {_printable(path)}: {what}. Paths count from the manifest's folder, "
            f"{_printable(path.parent.resolve())}."
        )
    return listing


@dataclass(frozen=True)
class ManifestClipBuilder:
    """Makes clips of the rows of a manifest in `folder`."""

    folder: Path

    def build_clip(self, origin: str, row: Row) -> BuiltClip:
        """The clip of a row. Raises CorpusError for one that cannot be understood."""
        parsed = read_row(origin, row)
        id_ = parsed.id or _default_id(
            parsed.path, parsed.start_s if parsed.is_part else None, parsed.channel
        )
        clip = Clip(
            id=id_,
            path=_locate(self.folder, parsed.path),
            text=parsed.text,
            speaker=parsed.speaker,
            language=parsed.language,
            licence=parsed.licence,
            split=parsed.split,
            start_s=parsed.start_s,
            duration_s=parsed.duration_s,
            open_end=not parsed.is_part,  # a duration alone only describes the file, often rounded
            channel=parsed.channel,
            columns=parsed.columns,
        )
        return BuiltClip(clip, bool(parsed.id or parsed.split))

    def file_error(self, clip: Clip) -> str:
        """Why a clip's path is no file to read from; "" where it is one."""
        return path_error(clip.path)


def _check_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        problem = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be opened ({error})"
    else:
        if stat.S_ISREG(mode):
            return
        problem = "is a folder" if stat.S_ISDIR(mode) else "is no regular file"
    raise CorpusError(f"the manifest {_printable(path)[:300]} {problem}. Give a .jsonl, .csv or .tsv file.")


def _locate(folder: Path, file: str) -> Path:
    try:
        path = folder / (Path(file).expanduser() if file.startswith("~") else file)
    except RuntimeError:  # ~nosuchuser
        path = folder / file
    if path_error(path) and not path_error(below := folder / CLIPS_FOLDER / file):
        return below
    return path


def path_error(path: Path) -> str:
    """Why a path is no file to read from; "" where it is one."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return ""
        return f"{_printable(path)[:300]} is no regular file"
    except (FileNotFoundError, NotADirectoryError):
        shown = _printable(path)[:300]
        remote = "://" in str(path) or ":/" in str(path)
        return f"the file {shown} does not exist" + (" (remote files are not downloaded)" if remote else "")
    except (OSError, ValueError) as error:  # too long a name, no permission, a NUL
        reason = getattr(error, "strerror", None) or error
        return f"the file {_printable(path)[:300]} cannot be opened ({reason})"


def _default_id(file: str, start_s: float | None, channel: int | None) -> str:
    """The path as the manifest has it, without its suffix; with start and channel, where a file has many."""
    name = os.path.splitext(Path(file).as_posix())[0].lstrip("/") or file
    name += "" if start_s is None else f"@{start_s:g}"
    return name if channel is None else f"{name}#{channel}"


def _printable(path: Path | str) -> str:
    return printable(str(path))

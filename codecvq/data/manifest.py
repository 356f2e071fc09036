"""Manifests: files that list clips, as JSON lines or as a table with a header (CSV, TSV).

One column has the path of the audio, relative to the folder of the manifest. The columns in `NAMES` may have
any of the listed names; all other columns are stored unchanged with the clip. Manifests of NeMo
(`audio_filepath`, `offset`), of Hugging Face audio folders (`file_name`) and of Common Voice (`path` below
`clips/`, `sentence`) work without changes. See `manifest_row` for the meaning of each column.

Opening a manifest reads and checks all rows. Of a manifest with more than `Clips.MAX_IN_MEMORY` rows, only
the offsets of the rows and the `Columns` stay in memory, and a row is read again when its clip is used.
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

CLIPS_FOLDER = "clips"  # the folder of the files that Common Voice's tables name


def read_manifest(source: str | os.PathLike[str]) -> ClipListing:
    """Read the clips of a manifest. Missing files become failures; an invalid row raises CorpusError."""
    path = Path(source)
    _check_file(path)
    listing = table_listing(Table(path), ManifestClipBuilder(path.parent), strict=True)
    if not listing.clips:
        failures = listing.failures
        first = (
            f"none of its {len(failures)} files can be used. The first error: {failures[0].error}"
            if failures
            else ""
        )
        problem = first or "it has no rows"
        raise CorpusError(
            f"manifest {_printable(path)}: {problem}. Paths are relative to the manifest's folder, "
            f"{_printable(path.parent.resolve())}."
        )
    return listing


@dataclass(frozen=True)
class ManifestClipBuilder:
    """Builds clips from the rows of a manifest in `folder`."""

    folder: Path

    def build_clip(self, origin: str, row: Row) -> BuiltClip:
        """Build the clip of a row. Raises CorpusError if the row is invalid."""
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
        """Return why the path of the clip is not a readable file, or ""."""
        return path_error(clip.path)


def _check_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        problem = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be opened ({error})"
    else:
        if stat.S_ISREG(mode):
            return
        problem = "is a folder" if stat.S_ISDIR(mode) else "is not a regular file"
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
    """Return why the path is not a readable file, or ""."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return ""
        return f"{_printable(path)[:300]} is not a regular file"
    except (FileNotFoundError, NotADirectoryError):
        shown = _printable(path)[:300]
        remote = "://" in str(path) or ":/" in str(path)
        return f"the file {shown} does not exist" + (" (remote files are not downloaded)" if remote else "")
    except (OSError, ValueError) as error:  # name too long, no permission, NUL
        reason = getattr(error, "strerror", None) or error
        return f"the file {_printable(path)[:300]} cannot be opened ({reason})"


def _default_id(file: str, start_s: float | None, channel: int | None) -> str:
    """Return the path in the manifest without its suffix, plus start and channel for parts of a file."""
    name = os.path.splitext(Path(file).as_posix())[0].lstrip("/") or file
    name += "" if start_s is None else f"@{start_s:g}"
    return name if channel is None else f"{name}#{channel}"


def _printable(path: Path | str) -> str:
    return printable(str(path))

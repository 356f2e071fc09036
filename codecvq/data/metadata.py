"""The reader `metadata`: a folder with a `metadata.csv` that lists its audio files.

Two layouts are supported. LJSpeech has no header: `LJ001-0001|original text|normalized text`, where the third
field is optional; the files are `wavs/LJ001-0001.wav`. Hugging Face audio folders have a header with the
columns of a manifest, `file_name,transcription,…`, or a `metadata.jsonl` with such keys; the files are in the
folder.

Invalid rows, and rows whose file is outside of the folder, become failures.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from codecvq.audio import AUDIO_SUFFIXES
from codecvq.data.clip import Clip
from codecvq.data.clips import ClipListing
from codecvq.data.manifest import ManifestClipBuilder, path_error
from codecvq.data.manifest_row import NAMES, Row
from codecvq.data.record_file import RecordFile
from codecvq.data.table import LineReader, Position, Table
from codecvq.data.table_clips import BuiltClip, table_listing
from codecvq.data.text import utf8_safe
from codecvq.errors import CorpusError
from codecvq.escaping import printable
from codecvq.json_file import parse_json

FILES = ("metadata.csv", "metadata.jsonl")
LJSPEECH_FOLDER = "wavs"


def is_metadata(source: str) -> bool:
    """Whether a source is a metadata file with a supported layout, or a folder with one."""
    path = _find_file(source)
    return path is not None and _detect_layout(path) != ""


def read_metadata(source: str) -> ClipListing:
    """Read the clips of a metadata file. Invalid rows become failures."""
    path = _find_file(source)
    if path is None or not (layout := _detect_layout(path)):
        raise CorpusError(
            f"{printable(source)} has no {' or '.join(FILES)} with a supported layout. Its first line must "
            f"be a header with a column {' or '.join(NAMES['path'])}, or id|text if there is a folder "
            f"{LJSPEECH_FOLDER}/."
        )
    folder = path.parent
    if layout == "ljspeech":
        listing = table_listing(LjspeechTable(path, "file"), LjspeechClipBuilder(folder), strict=False)
    else:
        listing = table_listing(Table(path, "file"), FolderClipBuilder(folder), strict=False)
    return ClipListing(listing.clips, listing.failures, name=utf8_safe(folder.resolve().name))


class LjspeechTable(Table):
    """Lines of `id|text|normalized text`."""

    delimiter = ""

    def _next(self, lines: LineReader, position: Position) -> Row | None:
        text = next(lines, None)
        if text is None or not text.strip():
            return None if text is None else {}
        cells = text.rstrip("\r\n").split("|")
        if not 2 <= len(cells) <= 3 or not cells[0].strip():
            raise CorpusError(
                f"{self.name}, line {position.line}: it is not id|text or id|text|normalized text. Repair it."
            )
        return {"id": cells[0].strip(), "text": cells[1], "normalized_text": cells[-1]}


@dataclass(frozen=True)
class FolderClipBuilder(ManifestClipBuilder):
    """Builds clips from rows whose files must be in `folder`."""

    def file_error(self, clip: Clip) -> str:
        """Return why the path of the clip is not a readable file in the folder, or ""."""
        prefix = os.path.normpath(self.folder) + os.sep if self.folder != Path() else ""
        path = os.path.normpath(clip.path)
        if not path.startswith(prefix) or (not prefix and path.startswith((os.pardir, os.sep))):
            return f"{printable(str(clip.path))[:300]} is outside of the folder of the metadata file"
        return path_error(clip.path)


@dataclass(frozen=True)
class LjspeechClipBuilder(FolderClipBuilder):
    """Builds clips from lines in the LJSpeech layout."""

    def build_clip(self, origin: str, row: Row) -> BuiltClip:
        """Build the clip of a line; its text is the normalized one, the original is column `raw_text`."""
        name, raw, text = row["id"], row["text"], row["normalized_text"]
        file = name if os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES else f"{name}.wav"
        columns = {} if raw == text else {"raw_text": raw}
        path = self.folder / LJSPEECH_FOLDER / file
        return BuiltClip(Clip(id=os.path.splitext(file)[0], path=path, text=text, columns=columns), True)


def _find_file(source: str) -> Path | None:
    """Return the metadata file: the source itself, or a file in it."""
    path = Path(source)
    candidates = [path] if path.name in FILES else [path / name for name in FILES]
    return next((file for file in candidates if not path_error(file)), None)


def _detect_layout(path: Path) -> str:
    """Detect the layout from the first line: "ljspeech" or "table"; "" if it is neither."""
    try:
        first = next(LineReader(RecordFile(path), str(path), Position(0, 1)), "")
        if path.suffix == ".jsonl":
            header = set(parse_json(first, str(path), error=CorpusError))
        else:
            header = set(next(csv.reader([first]), []))
    except (CorpusError, OSError, csv.Error):
        return ""
    if header & set(NAMES["path"]):
        return "table"
    is_ljspeech = (
        path.suffix == ".csv" and first.count("|") in (1, 2) and (path.parent / LJSPEECH_FOLDER).is_dir()
    )
    return "ljspeech" if is_ljspeech else ""

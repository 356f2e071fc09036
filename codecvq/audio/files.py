"""Suffixes of audio files, and searching a folder for them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from codecvq.errors import AudioError
from codecvq.escaping import printable

logger = logging.getLogger("codecvq")

#: Raw files without a header: suffix -> Hz. `.sln*` are Asterisk's mono files, signed 16 bits, little-endian.
RAW_RATES = {
    ".sln": 8000, ".sln8": 8000, ".sln12": 12000, ".sln16": 16000, ".sln24": 24000,
    ".sln32": 32000, ".sln44": 44100, ".sln48": 48000, ".sln96": 96000, ".sln192": 192000,
}  # fmt: skip
#: Formats with fast access to a part of a file. In others, everything before the part is decoded too.
SEEKABLE_SUFFIXES = frozenset(RAW_RATES) | {
    ".wav", ".flac", ".aif", ".aiff", ".aifc", ".au", ".caf", ".rf64", ".w64", ".sph", ".nist",
}  # fmt: skip
#: Read with FFmpeg, whatever the content; others are tried with libsndfile first.
FFMPEG_SUFFIXES = frozenset({
    ".mp3", ".m4a", ".m4b", ".mp4", ".aac", ".ac3", ".webm", ".mka", ".mkv", ".mov", ".wma", ".amr", ".3gp",
    ".g722",
})  # fmt: skip
AUDIO_SUFFIXES = SEEKABLE_SUFFIXES | FFMPEG_SUFFIXES | {".ogg", ".oga", ".opus"}


def find_audio_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return all files below a folder that have the suffix of an audio file, sorted.

    Follows links and skips hidden names. Entries that are not files (pipes, broken links) are included, so
    that reading them fails and is reported. Raises AudioError if the path is not a folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise AudioError(
            f"{printable(str(root))} is {'not a folder' if root.exists() else 'missing'}. Give a folder "
            "with audio files."
        )
    paths: list[Path] = []
    visited: set[str] = set()
    for parent, folders, files in os.walk(root, followlinks=True, onerror=_warn):
        real = os.path.realpath(parent)
        folders[:] = [] if real in visited else [name for name in folders if not name.startswith(".")]
        if real in visited:  # a link to a parent folder, or a second path to the same folder
            continue
        visited.add(real)
        paths += [
            Path(parent, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES
        ]
    return sorted(paths, key=lambda path: path.as_posix())


def _warn(error: OSError) -> None:
    folder = printable(str(error.filename))
    logger.warning("the folder %s cannot be read (%s): its files are skipped", folder, error.strerror)

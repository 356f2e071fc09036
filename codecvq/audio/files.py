"""Which files are audio, by their suffix, and where they are."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from codecvq.errors import AudioError
from codecvq.escaping import printable

logger = logging.getLogger("codecvq")

#: What has no header: suffix -> Hz. `.sln*` are Asterisk's mono files, signed 16 bits, little-endian.
RAW_RATES = {
    ".sln": 8000, ".sln8": 8000, ".sln12": 12000, ".sln16": 16000, ".sln24": 24000,
    ".sln32": 32000, ".sln44": 44100, ".sln48": 48000, ".sln96": 96000, ".sln192": 192000,
}  # fmt: skip
#: Where a part of a file costs no more than its length; elsewhere all that comes before it is decoded too.
SEEKABLE_SUFFIXES = frozenset(RAW_RATES) | {
    ".wav", ".flac", ".aif", ".aiff", ".aifc", ".au", ".caf", ".rf64", ".w64", ".sph", ".nist",
}  # fmt: skip
#: What FFmpeg reads, whatever is in it; the others are tried with libsndfile first.
FFMPEG_SUFFIXES = frozenset({
    ".mp3", ".m4a", ".m4b", ".mp4", ".aac", ".ac3", ".webm", ".mka", ".mkv", ".mov", ".wma", ".amr", ".3gp",
    ".g722",
})  # fmt: skip
AUDIO_SUFFIXES = SEEKABLE_SUFFIXES | FFMPEG_SUFFIXES | {".ogg", ".oga", ".opus"}


def find_audio_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Every audio file below a folder, by its suffix, sorted; links are followed, hidden names left out.

    What only has the name of a file (a pipe, a broken link) is among them: it fails when it is read, and is
    listed.
    """
    root = Path(folder)
    if not root.is_dir():
        raise AudioError(
            f"{printable(str(root))} is {'not a folder' if root.exists() else 'missing'}. Give a folder that "
            "holds audio files."
        )
    paths: list[Path] = []
    visited: set[str] = set()
    for parent, folders, files in os.walk(root, followlinks=True, onerror=_warn):
        real = os.path.realpath(parent)
        folders[:] = [] if real in visited else [name for name in folders if not name.startswith(".")]
        if real in visited:  # a link to a folder above, or the same folder by two ways
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
    logger.warning("the folder %s cannot be read (%s): its files are left out", folder, error.strerror)

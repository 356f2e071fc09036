"""The reader `folder`: every audio file below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from codecvq.audio import AUDIO_SUFFIXES, find_audio_files
from codecvq.data.clip import Clip
from codecvq.data.content_split import split_by_content
from codecvq.errors import CorpusError
from codecvq.escaping import printable


def read_folder(source: str) -> Iterator[Clip]:
    """Yield a clip for each audio file below the folder; its id is its relative path without suffix.

    Raises CorpusError if the folder does not exist or has no audio files.
    """
    folder, name = Path(source), printable(source)
    try:
        exists, is_folder = os.path.exists(folder), os.path.isdir(folder)
    except ValueError:  # NUL in the path
        exists = is_folder = False
    if not is_folder:
        raise CorpusError(
            f"the corpus folder {name} {'is a file' if exists else 'does not exist'}. "
            "Give a folder of audio files (or a manifest as 'manifest')."
        )
    paths = find_audio_files(folder)
    if not paths:
        kinds = ", ".join(sorted(AUDIO_SUFFIXES))
        raise CorpusError(
            f"the corpus folder {name} has no audio files. Add files with one of these suffixes: {kinds}."
        )
    yield from split_by_content(
        Clip(id=path.relative_to(folder).with_suffix("").as_posix(), path=path) for path in paths
    )

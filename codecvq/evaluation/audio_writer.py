"""Writing of audio files during an evaluation, for listening."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from codecvq.audio import write_audio
from codecvq.evaluation.exclusions import Exclusions
from codecvq.files import file_name

SUFFIX = ".flac"  # 16 bits


class AudioWriter:
    """Writes audio files to one folder; with `folder=None`, writes nothing.

    If a file cannot be written, adds a failure and writes no further files. So a full disk does not stop the
    evaluation.
    """

    def __init__(self, folder: Path | None, sample_rate: int) -> None:
        self.folder, self.sample_rate = folder, sample_rate
        self._disabled = folder is None

    def write(self, name: str, samples: np.ndarray, clip: str, exclusions: Exclusions) -> str:
        """Write samples `[S]` and return the file name, or "" if no file was written.

        `name` may be any text. Characters other than ASCII letters, digits and `_.@-` are replaced, so names
        must differ in these. An error is added to `exclusions` as a failure of the clip with the id `clip`.
        """
        if self._disabled or self.folder is None:
            return ""
        file = file_name(re.sub(r"[^\w.@-]+", "_", name, flags=re.ASCII), SUFFIX)  # safe in URLs
        try:
            write_audio(self.folder / file, samples, self.sample_rate)
        except OSError as error:
            self._disabled = True
            exclusions.fail(clip, "audio", error)
            return ""
        return file

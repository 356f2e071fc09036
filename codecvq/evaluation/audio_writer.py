"""Audio that a measurement keeps for listening."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from codecvq.audio import write_audio
from codecvq.evaluation.exclusions import Exclusions
from codecvq.files import file_name

SUFFIX = ".flac"  # 16 bits


class AudioWriter:
    """Audio files in one folder.

    Where one cannot be written, that is a listed failure and no more are tried: a full disk costs the audio,
    not hours of measuring.
    """

    def __init__(self, folder: Path | None, sample_rate: int) -> None:
        self.folder, self.sample_rate = folder, sample_rate
        self._disabled = folder is None

    def write(self, name: str, samples: np.ndarray, clip: str, exclusions: Exclusions) -> str:
        """The name of the file written for samples `[S]`; empty where none is kept.

        Any text is a `name`; its signs beyond ASCII letters and digits are replaced, so a number must tell
        names apart.
        """
        if self._disabled or self.folder is None:
            return ""
        file = file_name(re.sub(r"[^\w.@-]+", "_", name, flags=re.ASCII), SUFFIX)  # for addresses in a page
        try:
            write_audio(self.folder / file, samples, self.sample_rate)
        except OSError as error:
            self._disabled = True
            exclusions.fail(clip, "audio", error)
            return ""
        return file

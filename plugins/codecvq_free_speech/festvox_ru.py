"""The recordings of Festival's Russian voice (Debian's `festvox-ru`): one man, 16 kHz, with text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from codecvq import Clip, CorpusError
from codecvq_free_speech.held_out import HELD_OUT

VOICE = Path("festival/voices/russian/msu_ru_nsh_clunits")
SPEAKER = "festvox/nsh"
UTTERANCE = re.compile(r'\(\s*(\S+)\s+"(.*)"\s*\)')  # ( ru_0001 "The text." )


def clips(root: Path | None = None) -> Iterator[Clip]:
    """Yield every sentence; `root` is the voice's folder, or a folder with the unpacked package.

    Raises CorpusError if the recordings are not found.
    """
    voice = _find_voice(root or Path("/usr/share"))
    listing = voice / "etc" / "txt.done.data"
    texts = dict(UTTERANCE.findall(listing.read_text(encoding="utf-8"))) if listing.is_file() else {}
    for path in sorted((voice / "wav").glob("*.wav")):
        id_ = f"{SPEAKER}/{path.stem}"
        yield Clip(
            id=id_,
            path=path,
            text=texts.get(path.stem, "").replace("+", ""),  # "вол+ос": a stress mark for the synthesizer
            speaker=SPEAKER,
            language="ru-RU",
            licence="BSD-like (Nickolay V. Shmyrev)",
            split="test" if id_ in HELD_OUT else "",
            columns={"package": "festvox-ru"},
        )


def _find_voice(root: Path) -> Path:
    for below in (root, root / VOICE, root / "usr/share" / VOICE, root / "share" / VOICE):
        if (below / "wav").is_dir():
            return below
    raise CorpusError(f"the recordings of festvox-ru were not found below {root} (looked for {VOICE}/wav).")

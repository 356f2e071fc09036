"""Words, letters and syllables that volunteers read for two KDE games, a speaker or a few a language, as
Debian's `klettres-data` and `ktuberling-data` install them.

Rooms and microphones of all kinds, mostly a second or two a clip: no corpus to measure quality on, but some
forty voices more for a codec to learn from. Left out are recordings below 16 kHz, which have no upper band,
and what is shorter than `SHORTEST_S`. The names of speakers are not known; a folder, which is a language,
counts as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from codecvq.audio import find_audio
from codecvq.errors import CorpusError
from codecvq.training.corpus import Clip

LOWEST_RATE = 16000  # Hz
SHORTEST_S = 0.3
COPIES = "@"  # "sr@latin": the recordings of "sr" again, under the name of another script


def klettres(root: Path | None = None) -> Iterator[Clip]:
    """Letters and syllables in twenty languages; `root` is the folder of languages, or one that holds the
    package unpacked.
    """
    return _clips("klettres", _find(root, "klettres"))


def ktuberling(root: Path | None = None) -> Iterator[Clip]:
    """Names of things in some twenty languages; `root` as for `klettres`."""
    return _clips("ktuberling", _find(root, "ktuberling/sounds"))


def _clips(game: str, folder: Path) -> Iterator[Clip]:
    import soundfile

    for path in find_audio(folder):
        language = path.relative_to(folder).parts[0]
        info = soundfile.info(path)
        if COPIES in language or info.samplerate < LOWEST_RATE or info.duration < SHORTEST_S:
            continue
        yield Clip(
            id=f"{game}/{path.relative_to(folder).with_suffix('').as_posix()}",
            path=path,
            speaker=f"{game}/{language}",
            language=language.replace("_", "-"),
            licence="GPL-2.0-or-later",
            duration_s=info.duration,
            open_end=True,
            columns={"package": f"{game}-data"},
        )


def _find(root: Path | None, below: str) -> Path:
    root = root or Path("/usr/share")
    if root.name == Path(below).name and root.is_dir():
        return root
    for prefix in ("", "share", "usr/share"):
        if (root / prefix / below).is_dir():
            return root / prefix / below
    raise CorpusError(f"the recordings were not found below {root} (looked for {below}).")

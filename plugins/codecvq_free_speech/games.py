"""Speech recorded for free games, as Debian's packages install it: letters, names of things, and two fish.

Rooms and microphones of all kinds, mostly a second or two a clip: no corpus to measure quality on, but some
seventy voices more for a codec to learn from. Left out are recordings below 16 kHz, which have no upper band,
what is shorter than `SHORTEST_S`, and every copy of a recording that was there before under another name. The
names of speakers are not known; what a language has in one game counts as one, in Fish Fillets each fish.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from codecvq import Clip, CorpusError
from codecvq.data import find_audio

if TYPE_CHECKING:
    import soundfile

LOWEST_RATE = 16000  # Hz
SHORTEST_S = 0.3

DESCRIPTION = re.compile(r"(.+)_desc(?:_(\w+))?")  # "cat_desc_fr": what is said of cat.png in French
OVERDRIVEN = frozenset({"es"})  # Tux Paint's Spanish: a tenth of its samples are at the limit

FISH = {"m": "small_fish", "v": "big_fish"}  # Czech malá and velká: "vit-m-nebo" is said by the small one
OTHERS = "others"
SPOKEN = frozenset({"cs", "nl"})


class Take(NamedTuple):
    """A recording, and what its name says of it."""

    path: Path
    language: str  # BCP 47
    speaker: str
    text: str = ""


def klettres(root: Path | None = None) -> Iterator[Clip]:
    """Letters and syllables in twenty languages; `root` is the folder of languages, or one that holds the
    package unpacked.
    """
    folder = _find(root, "klettres")
    return _clips("klettres", "klettres-data", folder, _by_language("klettres", folder))


def ktuberling(root: Path | None = None) -> Iterator[Clip]:
    """Names of things in some twenty languages; `root` as for `klettres`."""
    folder = _find(root, "ktuberling/sounds")
    return _clips("ktuberling", "ktuberling-data", folder, _by_language("ktuberling", folder))


def tuxpaint(root: Path | None = None) -> Iterator[Clip]:
    """What Tux Paint says of its pictures in a dozen languages, with text; `root` is the folder of stamps, or
    one that holds the package unpacked.
    """
    folder = _find(root, "tuxpaint/stamps")
    return _clips("tuxpaint", "tuxpaint-stamps-default", folder, _descriptions(folder))


def fillets(root: Path | None = None) -> Iterator[Clip]:
    """The dialogues of Fish Fillets, Czech and Dutch, by actors; `root` is the folder of levels, or one that
    holds the packages unpacked.
    """
    folder = _find(root, "games/fillets-ng/sound")
    return _clips("fillets", "fillets-ng-data-{language}", folder, _dialogues(folder))


def _by_language(game: str, folder: Path) -> Iterator[Take]:
    for path in find_audio(folder):
        language = path.relative_to(folder).parts[0]
        if "@" not in language:  # "sr@latin": the recordings of "sr" again
            yield Take(path, language.replace("_", "-"), f"{game}/{language}")


def _descriptions(folder: Path) -> Iterator[Take]:
    for path in find_audio(folder):
        named = DESCRIPTION.fullmatch(path.stem)
        language = (named[2] or "en") if named else ""  # no name of this kind: what the thing sounds like
        if named and language not in OVERDRIVEN:
            text = _stamp_text(path.with_name(f"{named[1]}.txt"), language)
            yield Take(path, language.replace("_", "-"), f"tuxpaint/{language}", text)


def _stamp_text(listing: Path, language: str) -> str:
    """What is said of a stamp: the first line of its list in English, "fr.utf8=..." in French."""
    lines = listing.read_text(encoding="utf-8", errors="replace").splitlines() if listing.is_file() else []
    if language == "en":
        return lines[0].strip() if lines else ""
    start = f"{language}.utf8="
    return next((line.removeprefix(start).strip() for line in lines if line.startswith(start)), "")


def _dialogues(folder: Path) -> Iterator[Take]:
    for path in find_audio(folder):
        language = path.parent.name
        if language in SPOKEN:  # the rest is noise
            named = path.stem.split("-")
            who = FISH.get(named[1], OTHERS) if len(named) > 1 else OTHERS
            yield Take(path, language, f"fillets/{language}/{who}")


def _clips(game: str, package: str, folder: Path, takes: Iterable[Take]) -> Iterator[Clip]:
    known: set[bytes] = set()
    for path, language, speaker, text in takes:
        header = _header(path)
        if header is not None:
            if header.samplerate < LOWEST_RATE or header.duration < SHORTEST_S:
                continue
            content = hashlib.sha256(path.read_bytes()).digest()
            if content in known:
                continue
            known.add(content)
        yield Clip(
            id=f"{game}/{path.relative_to(folder).with_suffix('').as_posix()}",
            path=path,
            text=text,
            speaker=speaker,
            language=language,
            licence="GPL-2.0-or-later" if game.startswith("k") else "GPL-2.0-only",
            duration_s=header.duration if header is not None else None,
            open_end=header is not None,
            columns={"package": package.format(language=language)},
        )


def _header(path: Path) -> soundfile._SoundFileInfo | None:
    """What a recording's header tells; None where it cannot be read: the clip will be a listed failure."""
    import soundfile

    try:
        return soundfile.info(path) if path.is_file() else None
    except (OSError, ValueError, soundfile.SoundFileError):
        return None


def _find(root: Path | None, below: str) -> Path:
    root = root or Path("/usr/share")
    for prefix in ("", "share", "usr/share"):
        if (root / prefix / below).is_dir():
            return root / prefix / below
    if root.name == Path(below).name and root.is_dir():
        return root
    raise CorpusError(f"the recordings were not found below {root} (looked for {below}).")

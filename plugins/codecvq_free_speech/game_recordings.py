"""Speech recorded for free games, as Debian's packages install it: letters, names of things, dialogues.

The clips last a second or two and come from all kinds of rooms and microphones. They are not suited to
measuring quality, but add some seventy voices to training. Excluded are recordings below 16 kHz (no upper
band), recordings shorter than `MIN_DURATION_S`, and duplicates of a recording under another name. The names
of the speakers are unknown: each language of a game counts as one speaker, in Fish Fillets each fish.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from codecvq import Clip, CorpusError
from codecvq.data import find_audio_files

if TYPE_CHECKING:
    import soundfile

MIN_SAMPLE_RATE = 16000  # Hz
MIN_DURATION_S = 0.3

DESCRIPTION_NAME = re.compile(r"(.+)_desc(?:_(\w+))?")  # "cat_desc_fr": the French description of cat.png
CLIPPED_LANGUAGES = frozenset({"es"})  # Tux Paint's Spanish: a tenth of its samples are at the limit

#: Letter in a file name such as "vit-m-nebo" -> speaker; from Czech malá (small) and velká (big).
FISH_SPEAKERS = {"m": "small_fish", "v": "big_fish"}
OTHER_SPEAKERS = "others"
SPOKEN_LANGUAGES = frozenset({"cs", "nl"})


class Recording(NamedTuple):
    """An audio file and the information in its name."""

    path: Path
    language: str  # BCP 47
    speaker: str
    text: str = ""


def klettres(root: Path | None = None) -> Iterator[Clip]:
    """Letters and syllables in twenty languages.

    `root` is the folder of languages, or a folder with the unpacked package.
    """
    folder = _find_folder(root, "klettres")
    return _clips("klettres", "klettres-data", folder, _by_language("klettres", folder))


def ktuberling(root: Path | None = None) -> Iterator[Clip]:
    """Names of things in some twenty languages; `root` as for `klettres`."""
    folder = _find_folder(root, "ktuberling/sounds")
    return _clips("ktuberling", "ktuberling-data", folder, _by_language("ktuberling", folder))


def tuxpaint(root: Path | None = None) -> Iterator[Clip]:
    """Tux Paint's spoken picture descriptions in a dozen languages, with text.

    `root` is the folder of stamps, or a folder with the unpacked package.
    """
    folder = _find_folder(root, "tuxpaint/stamps")
    return _clips("tuxpaint", "tuxpaint-stamps-default", folder, _descriptions(folder))


def fillets(root: Path | None = None) -> Iterator[Clip]:
    """The dialogues of Fish Fillets, Czech and Dutch, by actors.

    `root` is the folder of levels, or a folder with the unpacked packages.
    """
    folder = _find_folder(root, "games/fillets-ng/sound")
    return _clips("fillets", "fillets-ng-data-{language}", folder, _dialogues(folder))


def _by_language(game: str, folder: Path) -> Iterator[Recording]:
    for path in find_audio_files(folder):
        language = path.relative_to(folder).parts[0]
        if "@" not in language:  # "sr@latin": the recordings of "sr" again
            yield Recording(path, language.replace("_", "-"), f"{game}/{language}")


def _descriptions(folder: Path) -> Iterator[Recording]:
    for path in find_audio_files(folder):
        named = DESCRIPTION_NAME.fullmatch(path.stem)
        language = (named[2] or "en") if named else ""  # other files are sound effects
        if named and language not in CLIPPED_LANGUAGES:
            text = _stamp_text(path.with_name(f"{named[1]}.txt"), language)
            yield Recording(path, language.replace("_", "-"), f"tuxpaint/{language}", text)


def _stamp_text(listing: Path, language: str) -> str:
    """The text of a stamp: the first line of its file in English, the line "fr.utf8=..." in French."""
    lines = listing.read_text(encoding="utf-8", errors="replace").splitlines() if listing.is_file() else []
    if language == "en":
        return lines[0].strip() if lines else ""
    start = f"{language}.utf8="
    return next((line.removeprefix(start).strip() for line in lines if line.startswith(start)), "")


def _dialogues(folder: Path) -> Iterator[Recording]:
    for path in find_audio_files(folder):
        language = path.parent.name
        if language in SPOKEN_LANGUAGES:  # the other folders have sound effects
            named = path.stem.split("-")
            who = FISH_SPEAKERS.get(named[1], OTHER_SPEAKERS) if len(named) > 1 else OTHER_SPEAKERS
            yield Recording(path, language, f"fillets/{language}/{who}")


def _clips(game: str, package: str, folder: Path, recordings: Iterable[Recording]) -> Iterator[Clip]:
    known_hashes: set[bytes] = set()
    for path, language, speaker, text in recordings:
        header = _header(path)
        if header is not None:
            if header.samplerate < MIN_SAMPLE_RATE or header.duration < MIN_DURATION_S:
                continue
            content = hashlib.sha256(path.read_bytes()).digest()
            if content in known_hashes:
                continue
            known_hashes.add(content)
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
    """The header of an audio file; None if the file cannot be read."""
    import soundfile

    try:
        return soundfile.info(path) if path.is_file() else None
    except (OSError, ValueError, soundfile.SoundFileError):
        return None


def _find_folder(root: Path | None, below: str) -> Path:
    root = root or Path("/usr/share")
    for prefix in ("", "share", "usr/share"):
        if (root / prefix / below).is_dir():
            return root / prefix / below
    if root.name == Path(below).name and root.is_dir():
        return root
    raise CorpusError(f"the recordings were not found below {root} (looked for {below}).")

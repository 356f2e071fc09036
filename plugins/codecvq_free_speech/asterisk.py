"""The Asterisk telephone prompts: five speakers, one a language, as Debian's `asterisk-core-sounds-*-g722`
install them.

Each voice has a folder of G.722 files (64 kbit/s, 16 kHz, the full band to 8 kHz) and, in another package, a
list of what is said. Left out are beeps, tones, silences and the screaming monkeys, and what is shorter than
`MIN_DURATION_S`.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from codecvq import AudioError, Clip, CorpusError
from codecvq.data import AudioFile
from codecvq_free_speech.held_out import HELD_OUT, HELD_OUT_SPEAKERS

DEFAULT_ROOT = Path("/usr/share")
SUFFIXES = (
    ".sln16",
    ".g722",
)  # what Asterisk has at 16 kHz; where a prompt is there twice, the first one counts
MIN_DURATION_S = 0.75  # single letters and numbers below it: too short for any measure of quality
NOT_SPEECH = frozenset(
    {
        "ascending-2tone",
        "beep",
        "beeperr",
        "confbridge-join",
        "confbridge-leave",
        "descending-2tone",
        "tt-monkeys",
    }
)
UNSPOKEN_NOTE = re.compile(
    r"\s*(\([^)]*\)|\[.?\]|<[^>]*>)"
)  # "dot [.]", "IAX (note: does not say 2)": not said


@dataclass(frozen=True)
class Voice:
    """A speaker, and where the packages put the recordings."""

    speaker: str
    folder: str
    language: str  # BCP 47
    licence: str
    package: str

    @property
    def transcript(self) -> str:
        """The name of the list of what is said, without the suffix that Debian gives it."""
        return f"core-sounds-{self.language[:2]}.txt"


VOICES = (
    Voice(
        "asterisk/allison_smith", "en_US_f_Allison", "en-US", "CC-BY-SA-3.0", "asterisk-core-sounds-en-g722"
    ),
    Voice(
        "asterisk/allison_smith_es",
        "es_MX_f_Allison",
        "es-MX",
        "CC-BY-SA-3.0",
        "asterisk-core-sounds-es-g722",
    ),
    Voice("asterisk/june_wallack", "fr_CA_f_June", "fr-CA", "CC-BY-SA-3.0", "asterisk-core-sounds-fr-g722"),
    Voice("asterisk/carlo_flora", "it_IT_m_Carlo", "it-IT", "CC-BY-3.0", "asterisk-core-sounds-it-g722"),
    # A woman's voice; the package names only who provided it, Maxim Topal of ivrvoice.ru.
    Voice("asterisk/maxim_topal", "ru_RU_f_IvrvoiceRU", "ru-RU", "CC-BY-3.0", "asterisk-core-sounds-ru-g722"),
)


def clips(root: Path | None = None) -> Iterator[Clip]:
    """Every prompt that is speech, by voice and name; `root` is a folder of voices, or one that holds
    packages unpacked.
    """
    sounds = find_sounds(root or DEFAULT_ROOT)
    for voice in VOICES:
        if (sounds / voice.folder).is_dir():
            yield from _voice_clips(voice, sounds)


def find_sounds(root: Path) -> Path:
    """The folder that holds the voices' folders, at or below `root`."""
    for below in (".", "asterisk/sounds", "usr/share/asterisk/sounds", "share/asterisk/sounds", "sounds"):
        if any((root / below / voice.folder).is_dir() for voice in VOICES):
            return root / below
    folders = ", ".join(voice.folder for voice in VOICES)
    raise CorpusError(f"no voice of the Asterisk prompts found below {root} (looked for {folders}).")


def _voice_clips(voice: Voice, sounds: Path) -> Iterator[Clip]:
    texts = _texts(voice, sounds)
    found = [_clip(voice, name, path, texts) for name, path in _prompts(sounds / voice.folder)]
    for clip in _assign_split_keys(found):
        held_out = voice.speaker in HELD_OUT_SPEAKERS or clip.split_key in HELD_OUT
        yield replace(clip, split="test") if held_out else clip


def _prompts(folder: Path) -> list[tuple[str, Path]]:
    """Name and file of every prompt that is speech and long enough, sorted by name."""
    files: dict[str, Path] = {}
    for suffix in SUFFIXES:
        for path in folder.rglob(f"*{suffix}"):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in NOT_SPEECH or name.startswith("silence/"):
                continue
            # One file is empty: the Russian "is", a word that Russian does without.
            if path.is_file() and not path.stat().st_size:
                continue
            length_s = _length_s(path)
            if length_s is None or length_s >= MIN_DURATION_S:
                files.setdefault(name, path)
    return sorted(files.items())


def _clip(voice: Voice, name: str, path: Path, texts: dict[str, str]) -> Clip:
    # The lists spell some names in another case than the files ("digits/1f").
    text = texts.get(name) or texts.get(name.lower(), "")
    length_s = _length_s(path)
    return Clip(
        id=f"{voice.speaker}/{name}",
        path=path,
        text=text,
        speaker=voice.speaker,
        language=voice.language,
        licence=voice.licence,
        duration_s=length_s,
        open_end=length_s is not None,
        measured=length_s is not None,
        columns={"package": voice.package},
    )


def _length_s(path: Path) -> float | None:
    """The length of a prompt in seconds; None where it cannot be read: the clip will be a listed failure."""
    try:
        return AudioFile(path).length_s()
    except (AudioError, OSError):
        return None


def _assign_split_keys(found: list[Clip]) -> Iterator[Clip]:
    """The clips, those with the same words under one split key, so that none is tested on what it was trained
    with.

    The key is the id of the first of them, or of a held-out one where there is any.
    """
    keys: dict[str, str] = {}
    for clip in sorted(found, key=lambda clip: (clip.id not in HELD_OUT, clip.id)):
        keys.setdefault(normalized_words(clip.text) or clip.id, clip.id)
    for clip in found:
        yield replace(clip, split_key=keys[normalized_words(clip.text) or clip.id])


def normalized_words(text: str) -> str:
    """A text as its lower-case words alone: what two clips share that say the same."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _texts(voice: Voice, sounds: Path) -> dict[str, str]:
    """What is said in each prompt; empty where the package with the list is not there."""
    share = sounds.parent.parent
    for folder in (sounds / voice.folder, sounds, share / "doc" / voice.package.removesuffix("-g722")):
        for path in (folder / f"{voice.transcript}.gz", folder / voice.transcript):
            if path.is_file():
                content = path.read_bytes()
                text = gzip.decompress(content) if path.suffix == ".gz" else content
                # The Italian list begins with a byte order mark and has lost a letter or two.
                return _parse_texts(text.decode("utf-8-sig", errors="replace"))
    return {}


def _parse_texts(lines: str) -> dict[str, str]:
    texts = {}
    for line in lines.splitlines():
        name, colon, text = line.partition(":")
        if colon and not line.startswith(";"):
            texts[name.strip()] = " ".join(UNSPOKEN_NOTE.sub("", text).split())
    return texts

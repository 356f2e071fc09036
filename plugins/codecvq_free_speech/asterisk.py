"""The Asterisk telephone prompts of Debian's `asterisk-core-sounds-*-g722`: five speakers, one per language.

Each voice has a folder of G.722 files (64 kbit/s, 16 kHz, full band up to 8 kHz). Another package has the
list of texts. Beeps, tones, silences, animal sounds (`tt-monkeys`) and prompts shorter than `MIN_DURATION_S`
are excluded.
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
SUFFIXES = (".sln16", ".g722")  # Asterisk's 16 kHz formats; the first one that exists is used
MIN_DURATION_S = 0.75  # excludes single letters and numbers, too short for quality metrics
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
#: Unspoken parts of a text: "dot [.]", "IAX (note: does not say 2)".
UNSPOKEN_NOTE = re.compile(r"\s*(\([^)]*\)|\[.?\]|<[^>]*>)")


@dataclass(frozen=True)
class Voice:
    """A speaker, and where the packages store the recordings."""

    speaker: str
    folder: str
    language: str  # BCP 47
    licence: str
    package: str

    @property
    def transcript(self) -> str:
        """The name of the text list, without the suffix that Debian adds."""
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
    # A woman's voice; the package names only the provider, Maxim Topal of ivrvoice.ru.
    Voice("asterisk/maxim_topal", "ru_RU_f_IvrvoiceRU", "ru-RU", "CC-BY-3.0", "asterisk-core-sounds-ru-g722"),
)


def clips(root: Path | None = None) -> Iterator[Clip]:
    """Yield every speech prompt, by voice and name.

    `root` is a folder of voices, or a folder with the unpacked packages. Raises CorpusError if it has no
    voice.
    """
    sounds = find_sounds(root or DEFAULT_ROOT)
    for voice in VOICES:
        if (sounds / voice.folder).is_dir():
            yield from _voice_clips(voice, sounds)


def find_sounds(root: Path) -> Path:
    """Return the folder that contains the folders of the voices. Raises CorpusError if `root` has none."""
    for below in (".", "asterisk/sounds", "usr/share/asterisk/sounds", "share/asterisk/sounds", "sounds"):
        if any((root / below / voice.folder).is_dir() for voice in VOICES):
            return root / below
    folders = ", ".join(voice.folder for voice in VOICES)
    raise CorpusError(f"no voice of the Asterisk prompts found below {root} (looked for {folders}).")


def _voice_clips(voice: Voice, sounds: Path) -> Iterator[Clip]:
    texts = _texts(voice, sounds)
    clips = [_clip(voice, name, path, texts) for name, path in _prompts(sounds / voice.folder)]
    for clip in _assign_split_keys(clips):
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
            # One file is empty: the Russian "is", a word that Russian omits.
            if path.is_file() and not path.stat().st_size:
                continue
            length_s = _length_s(path)
            if length_s is None or length_s >= MIN_DURATION_S:
                files.setdefault(name, path)
    return sorted(files.items())


def _clip(voice: Voice, name: str, path: Path, texts: dict[str, str]) -> Clip:
    # Some names in the lists differ in case from the files ("digits/1f").
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
    """The length of a prompt in seconds; None if the file cannot be read."""
    try:
        return AudioFile(path).length_s()
    except (AudioError, OSError):
        return None


def _assign_split_keys(clips: list[Clip]) -> Iterator[Clip]:
    """Yield the clips; equal words give the same split key, so that no training text is tested.

    The key is the id of the first such clip, or of a held-out one if there is any.
    """
    keys: dict[str, str] = {}
    for clip in sorted(clips, key=lambda clip: (clip.id not in HELD_OUT, clip.id)):
        keys.setdefault(normalized_words(clip.text) or clip.id, clip.id)
    for clip in clips:
        yield replace(clip, split_key=keys[normalized_words(clip.text) or clip.id])


def normalized_words(text: str) -> str:
    """The lower-case words of a text, to compare what clips say."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _texts(voice: Voice, sounds: Path) -> dict[str, str]:
    """The text of each prompt; empty if the package with the list is not installed."""
    share = sounds.parent.parent
    for folder in (sounds / voice.folder, sounds, share / "doc" / voice.package.removesuffix("-g722")):
        for path in (folder / f"{voice.transcript}.gz", folder / voice.transcript):
            if path.is_file():
                content = path.read_bytes()
                text = gzip.decompress(content) if path.suffix == ".gz" else content
                # The Italian list begins with a byte order mark and has a few invalid bytes.
                return _parse_texts(text.decode("utf-8-sig", errors="replace"))
    return {}


def _parse_texts(lines: str) -> dict[str, str]:
    texts = {}
    for line in lines.splitlines():
        name, colon, text = line.partition(":")
        if colon and not line.startswith(";"):
            texts[name.strip()] = " ".join(UNSPOKEN_NOTE.sub("", text).split())
    return texts

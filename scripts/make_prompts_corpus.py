"""Writes the bundled corpus from Debian's asterisk-core-sounds packages.

    mkdir /tmp/sounds && cd /tmp/sounds
    apt-get download asterisk-core-sounds-{en,es,fr,ru}-g722 asterisk-core-sounds-{en,es,fr,ru}
    for package in *.deb; do dpkg-deb -x $package .; done
    python scripts/make_prompts_corpus.py --root /tmp/sounds

The output is `plugins/codecvq_free_speech/prompts/`. The selection depends on the packages alone: there is no
randomness and no clock. Each voice gets the same number of seconds, except the Italian one, which is used for
testing only. A clip has the same split as in the corpus `asterisk`, so that a codec trained on either corpus
can be tested on both.

Within a split, clips are selected greedily by the number of new letter trigrams per second, an approximation
of phonetic variety. Clips with nearly the same words as another selected clip of the voice, or as a held-out
clip, are excluded.
"""

from __future__ import annotations

import argparse
import difflib
import io
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Import codecvq and plugins from this checkout, even if another version is installed.
HERE = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(HERE), str(HERE / "plugins")]

from codecvq_free_speech import asterisk  # noqa: E402
from codecvq_free_speech.held_out import HELD_OUT, HELD_OUT_SPEAKERS  # noqa: E402

from codecvq.audio import FloatArray, write_audio  # noqa: E402
from codecvq.data import Clip, Corpus  # noqa: E402
from codecvq.files import write_atomically  # noqa: E402

SAMPLE_RATE = 16000
SECONDS_PER_VOICE = 121.0
MIN_DURATION_S, MAX_DURATION_S = 1.5, 8.0
TEST_CLIPS, VALIDATION_CLIPS = 6, 4  # per voice; the remaining seconds are for training
MAX_TEST_DURATION_S = 6.0  # longer test clips would leave too little for training
SIMILAR_RATIO = 0.6  # two texts are similar if they share at least this fraction of their words, in order
SILENT_DB = -50.0  # frames below this level count as silent
MIN_ACTIVE_SHARE = 0.6  # of the frames of a clip
LEVEL_RANGE_DB = 8.0  # around the median of the voice
MAX_TOTAL_BYTES = 10_000_000


@dataclass(frozen=True)
class Candidate:
    """A clip, its samples and its words."""

    clip: Clip
    samples: FloatArray  # [S]
    words: str

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / SAMPLE_RATE

    @property
    def level_db(self) -> float:
        """Mean power relative to full scale, in dB."""
        return float(10 * np.log10(np.mean(self.samples**2) + 1e-10))

    @property
    def active_share(self) -> float:
        """Share of 20 ms frames that are not silent."""
        frames = self.samples[: len(self.samples) // 320 * 320].reshape(-1, 320)
        return float(np.mean(10 * np.log10(np.mean(frames**2, axis=1) + 1e-10) > SILENT_DB))

    @property
    def letter_trigrams(self) -> set[str]:
        """The letter trigrams of the text, including word boundaries."""
        text = f" {self.words} "
        return {text[i : i + 3] for i in range(len(text) - 2)}


def main() -> None:
    """Write the clips, their manifest and their license file, and print a summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="a folder with the packages unpacked")
    parser.add_argument("--out", type=Path, default=HERE / "plugins/codecvq_free_speech/prompts")
    options = parser.parse_args()

    corpus = Corpus("asterisk", tuple(asterisk.clips(options.root)))
    chosen = [
        pair
        for speaker in corpus.speakers
        if speaker not in HELD_OUT_SPEAKERS
        for pair in choose_clips(corpus, speaker)
    ]  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    for stale in options.out.glob("*.flac"):
        stale.unlink()
    rows = [write_clip(options.out, candidate, split) for candidate, split in chosen]
    lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    write_atomically(options.out / "clips.jsonl", lines)
    write_atomically(options.out / "LICENCE.md", LICENCE)
    print_summary(options.out, rows)


def choose_clips(corpus: Corpus, speaker: str) -> list[tuple[Candidate, str]]:
    """The selected clips of one voice with their splits, sorted by id."""
    clips = [clip for clip in corpus if clip.speaker == speaker]
    held_out_words = [asterisk.normalized_words(clip.text) for clip in clips if clip.split_key in HELD_OUT]
    decoded = [
        Candidate(clip, clip.read(SAMPLE_RATE), asterisk.normalized_words(clip.text))
        for clip in clips
        if is_usable(clip)
    ]
    level_db = float(np.median([candidate.level_db for candidate in decoded]))
    pool = [
        candidate
        for candidate in decoded
        if candidate.active_share >= MIN_ACTIVE_SHARE
        and abs(candidate.level_db - level_db) <= LEVEL_RANGE_DB
        and np.abs(candidate.samples).max() < 0.99
        and not any(is_similar(candidate.words, text) for text in held_out_words)
    ]
    splits = {
        split: [c for c in pool if corpus.split_of(c.clip) == split]
        for split in ("test", "validation", "train")
    }
    taken: list[Candidate] = []
    for split, count in (("test", TEST_CLIPS), ("validation", VALIDATION_CLIPS)):
        short = [candidate for candidate in splits[split] if candidate.seconds <= MAX_TEST_DURATION_S]
        taken += select_varied(short, taken, clips=count)
    seconds = SECONDS_PER_VOICE - sum(candidate.seconds for candidate in taken)
    taken += select_varied(splits["train"], taken, seconds=seconds)
    return sorted(((c, corpus.split_of(c.clip)) for c in taken), key=lambda pair: pair[0].clip.id)


def is_usable(clip: Clip) -> bool:
    """Whether a clip has an accepted duration and a known text."""
    return bool(clip.text) and MIN_DURATION_S <= (clip.duration_s or 0.0) <= MAX_DURATION_S


def select_varied(
    pool: Iterable[Candidate], taken: list[Candidate], *, clips: int = 10**9, seconds: float = float("inf")
) -> list[Candidate]:
    """Select clips with the most new trigrams per second, up to a number of clips or seconds.

    Clips similar to those in `taken` or to each other are excluded. Trigrams of `taken` do not count as new,
    except when selecting test and validation clips (`clips` is given).
    """
    remaining, chosen = list(pool), list[Candidate]()
    known_trigrams: set[str] = (
        set().union(*(candidate.letter_trigrams for candidate in taken)) if clips == 10**9 else set()
    )
    while remaining and len(chosen) < clips:
        seconds -= chosen[-1].seconds if chosen else 0.0
        others = [*taken, *chosen]
        remaining = [
            candidate
            for candidate in remaining
            if candidate.seconds <= seconds
            and not any(is_similar(candidate.words, other.words) for other in others)
        ]
        if not remaining:
            break
        # The id breaks ties, so that the order of files does not matter.
        best = max(remaining, key=lambda c: (len(c.letter_trigrams - known_trigrams) / c.seconds, c.clip.id))
        known_trigrams |= best.letter_trigrams
        chosen.append(best)
        remaining.remove(best)
    return chosen


def is_similar(one: str, other: str) -> bool:
    """Whether two texts have nearly the same words."""
    return difflib.SequenceMatcher(None, one.split(), other.split(), autojunk=False).ratio() >= SIMILAR_RATIO


def write_clip(folder: Path, candidate: Candidate, split: str) -> dict[str, object]:
    """Write a clip as FLAC and return its manifest row."""
    clip = candidate.clip
    name = clip.id.removeprefix("asterisk/").replace("/", "__") + ".flac"
    # FLAC's highest compression level, 8; the samples are exactly those decoded from G.722.
    write_audio(folder / name, candidate.samples, SAMPLE_RATE, compression=1.0)
    return {
        "path": name,
        "id": clip.id,
        "text": clip.text,
        "speaker": clip.speaker,
        "language": clip.language,
        "licence": clip.licence,
        "duration": round(candidate.seconds, 4),
        "split": split,
        "package": clip.columns["package"],
    }


def print_summary(folder: Path, rows: list[dict[str, object]]) -> None:
    """Print clips and seconds per voice and split. Raises SystemExit if the corpus is too large."""
    out = io.StringIO()
    for speaker in sorted({str(row["speaker"]) for row in rows}):
        for split in ("train", "validation", "test"):
            lengths = [
                float(str(r["duration"])) for r in rows if r["speaker"] == speaker and r["split"] == split
            ]
            out.write(f"{speaker:28} {split:11} {len(lengths):4} clips {sum(lengths):7.1f} s\n")
    size = sum(path.stat().st_size for path in folder.iterdir())
    minutes = sum(float(str(row["duration"])) for row in rows) / 60
    print(f"{out.getvalue()}{len(rows)} clips, {minutes:.2f} minutes, {size / 1e6:.2f} MB in {folder}")
    if size > MAX_TOTAL_BYTES:
        raise SystemExit(f"{size} bytes are more than {MAX_TOTAL_BYTES}: lower SECONDS_PER_VOICE.")


LICENCE = """\
# Licenses of these recordings

The recordings are excerpts of the *Asterisk core sounds* 1.6.1, telephone prompts made for the Asterisk
project (<http://downloads.asterisk.org/pub/telephony/>), taken from Debian's packages
`asterisk-core-sounds-XX-g722` 1.6.1-1, and their texts from `asterisk-core-sounds-XX` 1.6.1-1. The license of
codecvq's code does not cover them. Every row of `clips.jsonl` has the speaker, the license and the package of
its clip.

| speaker | language | author and credits | license |
|---|---|---|---|
| `asterisk/allison_smith` | English (en-US) | © 2003–2010 Allison Smith (<http://www.theivrvoice.com>); \
financial contributions by Digium, Inc. | \
[CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/) |
| `asterisk/allison_smith_es` | Spanish (es-MX) | © 2003–2010 Allison Smith (<http://www.theivrvoice.com>); \
financial contributions by Digium, Inc. | \
[CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/) |
| `asterisk/june_wallack` | French (fr-CA) | © 2006–2008 June Wallack (<http://www.junewallack.com>); \
translated by Clod Patry, Kristopher Lalletti and June Wallack; financial contributions by Digium, Inc., \
Unlimitel and BGM Informatique | [CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/) |
| `asterisk/maxim_topal` | Russian (ru-RU) | © 2010 Maxim; provided by Maxim Topal \
(<http://www.ivrvoice.ru>); the package does not name the speaker, a woman | \
[CC BY 3.0](https://creativecommons.org/licenses/by/3.0/) |

The full texts of both licenses are at the addresses above and in the packages' `copyright` files.

**Changes made.** A selection of the prompts; decoded from G.722 and stored as FLAC, 16 kHz, 16 bits, mono;
files renamed. The samples are unchanged. Notes in brackets that are not spoken were removed from the texts.
The selection is distributed under the same licenses as the recordings in it.
`scripts/make_prompts_corpus.py` made and documents it.

The recordings are provided as they are, without warranties. The people named here do not endorse codecvq.
"""

if __name__ == "__main__":
    main()

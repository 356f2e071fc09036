"""Writes the list of clips that pretrained codecs are evaluated on, from Debian's packages.

    mkdir /tmp/sounds && cd /tmp/sounds
    apt-get download asterisk-core-sounds-{en,es,fr,it,ru}{-g722,} festvox-ru
    for package in *.deb; do dpkg-deb -x $package .; done
    python scripts/make_test_speech.py --root /tmp/sounds

The output is `plugins/codecvq_pretrained/clips/test_speech.jsonl`. The selection depends on the packages
alone. All clips are test clips of their corpora, so no training that follows the splits has used them. None
belongs to the fixed comparison set of `held_out.py` or has the same words as one of its clips: the tables of
the two sets use different clips.

The same number of clips is selected for each speaker, evenly spaced by duration. The one speaker who is never
used for training gets more clips, because he alone represents unseen speakers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

# Import codecvq and plugins from this checkout, even if another version is installed.
HERE = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(HERE), str(HERE / "plugins")]

from codecvq_free_speech.held_out import HELD_OUT, HELD_OUT_SPEAKERS  # noqa: E402

from codecvq.data import Clip, open_corpus  # noqa: E402
from codecvq.files import write_atomically  # noqa: E402

OUT = HERE / "plugins/codecvq_pretrained/clips/test_speech.jsonl"
CORPORA = ("asterisk", "festvox_ru")
MIN_DURATION_S, MAX_DURATION_S = 1.5, 12.0
SEEN_CLIPS, UNSEEN_CLIPS = 8, 20  # per speaker
#: Clips of the fixed comparison set by the held-out speaker. Its other two clips of him consist of prompts
#: that are too short to be selected here.
COMPARISON_CLIPS = frozenset({"asterisk/carlo_flora/agent-alreadyon", "asterisk/carlo_flora/vm-whichbox"})


def main() -> None:
    """Write the list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="where the packages are unpacked, if not installed")
    rows = list(chosen_rows(parser.parse_args().root))
    write_atomically(OUT, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    print(f"{len(rows)} clips, {sum(row['duration'] for row in rows) / 60:.1f} minutes: {OUT}")


def chosen_rows(root: Path | None) -> Iterator[dict[str, str | float]]:
    """Yield a row for each clip, by corpus, speaker and duration."""
    for corpus in CORPORA:
        speakers: dict[str, list[Clip]] = {}
        for clip in open_corpus(corpus, root=root).split("test").measured():
            if is_eligible(clip):
                speakers.setdefault(clip.speaker, []).append(clip)
        for speaker, clips in sorted(speakers.items()):
            group = "unseen" if speaker in HELD_OUT_SPEAKERS else "seen"
            for clip in evenly_spaced(clips, UNSEEN_CLIPS if group == "unseen" else SEEN_CLIPS):
                yield {
                    "corpus": corpus,
                    "id": clip.id,
                    "group": group,
                    "speaker": speaker,
                    "language": clip.language,
                    "duration": round(clip.duration_s or 0.0, 3),
                }


def is_eligible(clip: Clip) -> bool:
    """Whether a clip has an accepted duration and is neither in the comparison set nor a repetition of it."""
    assert clip.duration_s is not None, "the corpus is measured"
    comparison_ids = {clip.id, clip.split_key} & (HELD_OUT | COMPARISON_CLIPS)
    return MIN_DURATION_S <= clip.duration_s <= MAX_DURATION_S and not comparison_ids


def evenly_spaced(clips: list[Clip], count: int) -> list[Clip]:
    """`count` clips evenly spaced in the order of duration, including the shortest and the longest."""
    if len(clips) < count:
        sys.exit(
            f"{clips[0].speaker} has {len(clips)} eligible clips; {count} are needed. Is a package missing?"
        )
    ordered = sorted(clips, key=lambda clip: (clip.duration_s or 0.0, clip.id))
    return [ordered[round(i * (len(ordered) - 1) / (count - 1))] for i in range(count)]


if __name__ == "__main__":
    main()

"""The split of a run, in `split.jsonl`: which of its clips are for training, validation and test.

It holds for the run: one that goes on keeps it, whatever a newer codecvq, other files or an edited manifest
would make of the corpus. It also tells which recordings a codec was trained on, wherever they lie now.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from codecvq.data.clip import Clip
from codecvq.data.corpus import SPLITS, Corpus, Split
from codecvq.errors import AudioError, CorpusError
from codecvq.escaping import printable
from codecvq.files import write_atomically
from codecvq.json_file import parse_json

logger = logging.getLogger("codecvq")

SPLIT_FILE = "split.jsonl"  # in a run folder
ADVICE = "Bring it back from a copy, or delete it to have the clips split anew."


@dataclass(frozen=True)
class RecordedSplit:
    """The splits of clips, by their ids and by what their recordings are."""

    path: Path
    ids: Mapping[str, Split]
    recordings: Mapping[str, Split]  # Clip.identity() -> split; empty for a file of an older codecvq
    files: Mapping[str, Split]  # fingerprint -> split; "train" where parts of a file are in several

    def kept(self, corpus: Corpus) -> Corpus:
        """The corpus of the run with each clip in the split written down; new clips go by their own."""
        moved = 0
        clips = []
        for clip in corpus.clips:
            recorded = self.ids.get(clip.id)
            if recorded is not None and corpus.split_of(clip) != recorded:
                clip, moved = replace(clip, split=recorded), moved + 1
            clips.append(clip)
        if moved:
            logger.warning(
                "%d of %d clips of corpus %s would be in another split today. The run keeps its own, of %s.",
                moved, len(corpus), printable(corpus.name), printable(str(self.path)),
            )  # fmt: skip
        return replace(corpus, clips=tuple(clips))

    def of_recording(self, clip: Clip) -> Split | None:
        """The split that the run had this recording in, under whatever name; None where it had not.

        A part of a recording that the run had whole, and the other way round, counts as the recording. In a
        file of an older codecvq only ids can be compared.
        """
        if not self.recordings:
            return self.ids.get(clip.id)
        try:
            identity = clip.identity()
        except (AudioError, OSError):
            return None
        exact = self.recordings.get(identity)
        file = identity.removesuffix(clip.part)
        return exact or (self.recordings.get(file) if clip.part else self.files.get(file))


def write_split(corpus: Corpus, path: str | os.PathLike[str]) -> Path:
    """The JSON-lines file written: `id`, `split`, `speaker`, `duration` in seconds and `audio`, the identity
    of the recording, of every clip that can be read.
    """
    rows = (
        {
            "id": clip.id,
            "split": corpus.split_of(clip),
            "speaker": clip.speaker,
            "duration": clip.duration_s,
            "audio": _identity(clip),
        }
        for clip in corpus.measured()
    )
    path = Path(path)
    write_atomically(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    return path


def read_split(path: str | os.PathLike[str]) -> RecordedSplit:
    """The split that a file holds. Raises CorpusError where it is missing or damaged."""
    path = Path(path)
    ids, recordings, files = dict[str, Split](), dict[str, Split](), dict[str, Split]()
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise _unreadable(path, getattr(error, "strerror", None) or error) from error
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        row = parse_json(line, f"{path}, line {number},", error=CorpusError, advice=ADVICE)
        if not isinstance(row.get("id"), str) or row.get("split") not in SPLITS:
            raise _unreadable(path, f"line {number} is no clip with a split")
        split = ids[row["id"]] = cast(Split, row["split"])
        if isinstance(audio := row.get("audio"), str) and audio:
            recordings[audio] = split
            file = audio.partition("@")[0].partition("#")[0]
            files[file] = min(split, files.get(file, split), key=SPLITS.index)
    return RecordedSplit(path, ids, recordings, files)


def _unreadable(path: Path, why: object) -> CorpusError:
    return CorpusError(f"the split {printable(str(path))} cannot be read ({why}). {ADVICE}")


def _identity(clip: Clip) -> str:
    try:
        return clip.identity()
    except (AudioError, OSError):
        return ""

"""The split of a run, stored in `split.jsonl`: the assignment of clips to training, validation and test.

A resumed run uses the stored split, even if a newer version of codecvq, other files or an edited manifest
would split the corpus differently. The file also identifies the recordings that a codec was trained on,
independent of their location.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

from codecvq.data import SPLITS, Clip, Corpus, Split
from codecvq.data.split_table import SplitTable, SplitTableBuilder
from codecvq.data.splits import NONE
from codecvq.errors import AudioError, CorpusError
from codecvq.escaping import printable
from codecvq.files import atomic_file
from codecvq.json_file import parse_json

logger = logging.getLogger("codecvq")

SPLIT_FILE = "split.jsonl"  # in a run folder
ADVICE = "Restore it from a backup, or delete it to split the clips again."


@dataclass(frozen=True)
class RecordedSplit:
    """The stored splits of clips, by their ids and by the identities of their recordings."""

    path: Path
    ids: SplitTable
    recordings: SplitTable  # by Clip.identity(); empty for a file of an older version
    files: SplitTable  # by fingerprint; for parts in several splits, see the precedence in `SplitTable`

    def apply(self, corpus: Corpus) -> Corpus:
        """Return the corpus with the stored split of each clip; new clips stay in their split."""
        clips = corpus.lazy_clips
        recorded, current = self.ids.codes(clips.id_hashes), clips.splits(corpus.split_by)
        changed = (recorded != NONE) & (recorded != current)
        if not changed.any():
            return corpus
        logger.warning(
            "%d of %d clips of corpus %s would be in another split now. The run uses the stored split of %s.",
            int(changed.sum()), len(corpus), printable(corpus.name), printable(str(self.path)),
        )  # fmt: skip
        return replace(corpus, clips=clips.with_splits(np.where(changed, recorded, clips.explicit_splits)))

    def split_of_recording(self, clip: Clip) -> Split | None:
        """Return the split of this recording in the run, independent of its name; None if it was not used.

        A part matches the whole recording and vice versa. A file of an older version has only ids to compare.
        """
        if not len(self.recordings):
            return self.ids.get(clip.id)
        try:
            identity = clip.identity()
        except (AudioError, OSError):
            return None
        exact = self.recordings.get(identity)
        file = identity.removesuffix(clip.part_suffix)
        return exact or (self.recordings.get(file) if clip.part_suffix else self.files.get(file))


def write_split(corpus: Corpus, path: str | os.PathLike[str]) -> Path:
    """Write the splits of all readable clips as JSON lines and return the path.

    The keys are `id`, `split`, `speaker`, `duration` in seconds, and `audio`, the identity of the recording.
    """
    path = Path(path)
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for clip in corpus.measured():
            row = {
                "id": clip.id,
                "split": corpus.split_of(clip),
                "speaker": clip.speaker,
                "duration": clip.duration_s,
                "audio": _identity(clip),
            }
            file.write(f"{json.dumps(row, ensure_ascii=False)}\n")
    return path


def read_split(path: str | os.PathLike[str]) -> RecordedSplit:
    """Read a split file. Raises CorpusError if it is missing or damaged."""
    path = Path(path)
    ids, recordings, files = SplitTableBuilder(), SplitTableBuilder(), SplitTableBuilder()
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip("\n"):
                    continue
                row = parse_json(line, f"{path}, line {number},", error=CorpusError, advice=ADVICE)
                if not isinstance(row.get("id"), str) or row.get("split") not in SPLITS:
                    raise _read_error(path, f"line {number} is not a clip with a split")
                split = cast(Split, row["split"])
                ids.add(row["id"], split)
                if isinstance(audio := row.get("audio"), str) and audio:
                    recordings.add(audio, split)
                    files.add(audio.partition("@")[0].partition("#")[0], split)
    except (OSError, ValueError) as error:
        raise _read_error(path, getattr(error, "strerror", None) or error) from error
    return RecordedSplit(path, ids.table(), recordings.table(), files.table())


def _read_error(path: Path, why: object) -> CorpusError:
    return CorpusError(f"the split {printable(str(path))} cannot be read ({why}). {ADVICE}")


def _identity(clip: Clip) -> str:
    try:
        return clip.identity()
    except (AudioError, OSError):
        return ""

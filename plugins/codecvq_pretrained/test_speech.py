"""The corpus `test_speech`: test clips of the free-speech corpora, to reproduce the tables of a model card.

No training that follows the splits of these corpora has used the clips. `clips/test_speech.jsonl` lists them;
`scripts/make_test_speech.py` selected them. The recordings are in Debian packages. The column `group` states
whether the speaker occurs in training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from codecvq import Clip, CorpusError
from codecvq.data import open_corpus

LISTING = Path(__file__).parent / "clips" / "test_speech.jsonl"


def clips(root: Path | None = None) -> Iterator[Clip]:
    """Yield the clips in the order of the list; `root` is a folder with the unpacked packages.

    Raises CorpusError if any clip is missing: means over fewer clips are not comparable with a published
    table.
    """
    rows = [json.loads(line) for line in LISTING.read_text(encoding="utf-8").splitlines()]
    clips_by_id = {
        clip.id: clip
        for corpus in dict.fromkeys(row["corpus"] for row in rows)
        for clip in open_corpus(corpus, root=root)
    }
    if missing := [row["id"] for row in rows if row["id"] not in clips_by_id]:
        raise CorpusError(f"{len(missing)} of {len(rows)} clips are missing, the first: {missing[0]}.")
    for row in rows:
        clip = clips_by_id[row["id"]]
        yield replace(clip, split="test", columns={**clip.columns, "group": row["group"]})

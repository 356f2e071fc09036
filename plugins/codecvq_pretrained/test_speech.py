"""The corpus `test_speech`: clips of the free-speech corpora that no training which keeps to their splits has
heard, so that anybody can make the tables of a model card again.

`clips/test_speech.jsonl` names them, and `scripts/make_test_speech.py` chose them; the recordings themselves
are in Debian's packages. The column `group` says whether the speaker is one of those trained on.
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
    """The clips in the order of the list; `root` is a folder that holds the packages unpacked.

    All of them or none: means over fewer clips could not be compared with a published table.
    """
    rows = [json.loads(line) for line in LISTING.read_text(encoding="utf-8").splitlines()]
    found = {
        clip.id: clip
        for corpus in dict.fromkeys(row["corpus"] for row in rows)
        for clip in open_corpus(corpus, root=root)
    }
    if missing := [row["id"] for row in rows if row["id"] not in found]:
        raise CorpusError(f"{len(missing)} of {len(rows)} clips are missing, the first: {missing[0]}.")
    for row in rows:
        clip = found[row["id"]]
        yield replace(clip, split="test", columns={**clip.columns, "group": row["group"]})

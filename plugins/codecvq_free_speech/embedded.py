"""The corpus in the box: a few minutes of the Asterisk prompts, chosen and written by
`scripts/make_prompts_corpus.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from codecvq.data.corpus import Clip
from codecvq.data.manifest import read_manifest
from codecvq.errors import CorpusError

FOLDER = Path(__file__).parent / "prompts"


def clips(root: Path | None = None) -> Iterator[Clip]:
    """The clips in the box; `root` is another folder made by the script."""
    manifest = (root or FOLDER) / "clips.jsonl"
    if not manifest.is_file():
        raise CorpusError(f"{manifest} is missing.")
    corpus = read_manifest(manifest)
    if corpus.failures:
        raise CorpusError(
            f"{len(corpus.failures)} of its files are missing, the first: {corpus.failures[0].path}."
        )
    yield from corpus

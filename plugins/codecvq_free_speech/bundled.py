"""The bundled corpus: a few minutes of the Asterisk prompts, made by `scripts/make_prompts_corpus.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from codecvq import Clip, CorpusError
from codecvq.data import read_manifest

FOLDER = Path(__file__).parent / "prompts"


def clips(root: Path | None = None) -> Sequence[Clip]:
    """The bundled clips, or the clips of another folder `root` that the script wrote.

    Raises CorpusError if files are missing.
    """
    manifest = (root or FOLDER) / "clips.jsonl"
    if not manifest.is_file():
        raise CorpusError(f"{manifest} is missing.")
    corpus = read_manifest(manifest)
    if corpus.failures:
        raise CorpusError(
            f"{len(corpus.failures)} of its files are missing, the first: {corpus.failures[0].path}."
        )
    return corpus.clips

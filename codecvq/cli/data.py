"""Clips from what a user names: a folder, a manifest, or a registered corpus; and the options for that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecvq.errors import CorpusError
from codecvq.plugins import registry

if TYPE_CHECKING:
    from codecvq.training.corpus import Corpus

CorpusRoot = Annotated[
    Path | None, typer.Option(help="Where a named corpus is, if not where it is usually installed.")
]
MaxClips = Annotated[int | None, typer.Option(help="At most this many clips, spread evenly.")]

MANIFESTS = (".jsonl", ".ndjson", ".csv", ".tsv")


def corpus_of(data: str, root: Path | None = None) -> Corpus:
    """The corpus behind an argument: an existing folder, a manifest, or the name of a registered corpus."""
    from codecvq.training.corpus import open_corpus

    path = Path(data).expanduser()
    if data in registry().corpora() and not path.exists():
        return open_corpus(data, root=root)
    if path.is_dir():
        return open_corpus(folder=path)
    if path.suffix.lower() in MANIFESTS:
        return open_corpus(manifest=path)
    if path.is_file():
        raise CorpusError(
            f"{data} is neither a folder nor a manifest ({', '.join(MANIFESTS)}). For single audio files: "
            "codecvq encode."
        )
    if "/" not in data:
        return open_corpus(data, root=root)  # its error lists the known names
    raise CorpusError(
        f"{data} does not exist. Give a folder of audio, a manifest, or one of: "
        f"{', '.join(registry().corpora())}."
    )

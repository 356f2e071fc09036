"""Command line options that select clips: folders, manifests and registered corpora.

Arguments are checked before anything is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codecvq.api.hookspecs import CorpusSpec
from codecvq.cli.paths import typed_path
from codecvq.errors import CorpusError, OptionError, nearest
from codecvq.plugins import registry

if TYPE_CHECKING:
    from codecvq.data import Corpus

CorpusRoot = Annotated[
    Path | None,
    typer.Option(
        help="Location of a registered corpus, if not the usual one.",
        parser=typed_path,
        metavar="FOLDER",
    ),
]
ReaderName = Annotated[
    str | None,
    typer.Option(
        "--reader",
        help="Reader of the data, listed by: codecvq plugins list --kind readers. Default: detected.",
        metavar="NAME",
    ),
]
MaxClips = Annotated[int | None, typer.Option(help="Maximum number of clips, spread evenly.", min=1)]

SPLITS, ALL = ("train", "validation", "test"), "all"


def open_data(data: str, root: Path | None = None, reader: str | None = None) -> Corpus:
    """Open the corpus of an argument: a folder, manifest, URL or registered name.

    Uses the reader `reader`, or detects one.
    """
    from codecvq.data import open_corpus

    source = data if is_corpus_name(data) or "://" in data else typed_path(data)
    return open_corpus(source=source, root=root, reader=reader)


def is_corpus_name(data: str) -> bool:
    """Whether an argument is the name of a registered corpus. An existing file or folder has priority."""
    return data in registry().all(CorpusSpec) and not typed_path(data).exists()


def parse_names(text: str | None, option: str) -> list[str] | None:
    """Split comma-separated names; None if the option was not given. Raises OptionError for no name."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise OptionError(f"{option} is {text!r}, which contains no name. Give comma-separated names.")
    return names


def check_split(split: str) -> None:
    """Raise CorpusError unless `split` is train, validation, test or all."""
    if split not in (*SPLITS, ALL):
        known = (*SPLITS, ALL)
        raise CorpusError(
            f"split is {split!r}; it must be train, validation, test or all.{nearest(split, known)}"
        )


def split_clips(corpus: Corpus, split: str) -> Corpus:
    """Clips of a split, or all clips. Raises CorpusError for an unknown or empty split."""
    check_split(split)
    if split == ALL:
        return corpus
    chosen: Any = split
    part = corpus.split(chosen)
    if not len(part):
        raise CorpusError(
            f"corpus {corpus.name!r} has no clips in the split {split!r} ({len(corpus)} in total). Use "
            "--split all."
        )
    return part

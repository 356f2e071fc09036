"""Clips from what a user names: a folder, a manifest, or a registered corpus; and the options for that.

What is typed is checked here before anything is loaded.
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
        help="Where a named corpus is, if not where it is usually installed.",
        parser=typed_path,
        metavar="FOLDER",
    ),
]
ReaderName = Annotated[
    str | None,
    typer.Option(
        "--reader",
        help="What reads the data, from: plugins list --kind readers. By default the one that knows it.",
        metavar="NAME",
    ),
]
MaxClips = Annotated[int | None, typer.Option(help="At most this many clips, spread evenly.", min=1)]

SPLITS, ALL = ("train", "validation", "test"), "all"


def open_data(data: str, root: Path | None = None, reader: str | None = None) -> Corpus:
    """The corpus behind an argument: what the named reader finds in it, or the one that knows it. A folder, a
    manifest, or the name of a registered corpus is known.
    """
    from codecvq.data import open_corpus

    source = data if is_corpus_name(data) or "://" in data else typed_path(data)
    return open_corpus(source=source, root=root, reader=reader)


def is_corpus_name(data: str) -> bool:
    """Whether an argument is the name of a registered corpus: a file or folder of that name goes before."""
    return data in registry().all(CorpusSpec) and not typed_path(data).exists()


def parse_names(text: str | None, option: str) -> list[str] | None:
    """The names between commas; None where the option was not given. Raises OptionError for no name."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise OptionError(f"{option} is {text!r}, which names nothing. Give names, commas between.")
    return names


def check_split(split: str) -> None:
    """Raise CorpusError for what is no split and not "all"."""
    if split not in (*SPLITS, ALL):
        known = (*SPLITS, ALL)
        raise CorpusError(f"split is {split!r}; it is train, validation, test or all.{nearest(split, known)}")


def split_clips(corpus: Corpus, split: str) -> Corpus:
    """The clips of a split, or all; raises CorpusError for another word, and where there is none."""
    check_split(split)
    if split == ALL:
        return corpus
    chosen: Any = split
    part = corpus.split(chosen)
    if not len(part):
        raise CorpusError(
            f"corpus {corpus.name!r} has no clips in the split {split!r} ({len(corpus)} in all). Take "
            "--split all."
        )
    return part

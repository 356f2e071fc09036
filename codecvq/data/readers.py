"""The readers that come along: of folders, manifests, `metadata.csv` and registered corpora."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from codecvq.api.hookspecs import CorpusSpec, ReaderSpec, hookimpl

MANIFESTS = (".jsonl", ".ndjson", ".csv", ".tsv")


@hookimpl
def codecvq_readers() -> Iterator[ReaderSpec]:
    """The readers `corpus`, `folder`, `manifest` and `metadata`."""
    yield ReaderSpec(
        name="corpus",
        factory="codecvq.data.registered_corpus:read_registered_corpus",
        matches=is_registered_corpus,
        summary="a registered corpus, by its name",
    )
    yield ReaderSpec(
        name="folder",
        factory="codecvq.data.folder:read_folder",
        matches=is_folder,
        general=True,
        summary="a folder of audio files, and the folders in it",
    )
    yield ReaderSpec(
        name="manifest",
        factory="codecvq.data.manifest:read_manifest",
        matches=is_manifest,
        general=True,
        summary="JSON lines or a table (CSV, TSV) with a column that names the audio",
    )
    yield ReaderSpec(
        name="metadata",
        factory="codecvq.data.metadata:read_metadata",
        matches="codecvq.data.metadata:is_metadata",
        summary="a folder with a metadata.csv, as LJSpeech and Hugging Face's audio folders have it",
    )


def is_registered_corpus(source: str) -> bool:
    """Whether a source is the name of a registered corpus; a file or folder of that name goes before."""
    from codecvq.plugins import registry

    registered = registry().registrations(CorpusSpec)
    qualified = {
        registration.qualified_name for registrations in registered.values() for registration in registrations
    }
    return (source in registered or source in qualified) and not _path_test(os.path.lexists, source)


def is_folder(source: str) -> bool:
    """Whether a source is a folder."""
    return _path_test(os.path.isdir, source)


def is_manifest(source: str) -> bool:
    """Whether a source is a file, by its suffix a manifest; or would be one if it were there."""
    return Path(source).suffix.lower() in MANIFESTS and "://" not in source and not is_folder(source)


def _path_test(test: Callable[[str], bool], path: str) -> bool:
    try:
        return bool(test(path))
    except ValueError:  # a NUL
        return False

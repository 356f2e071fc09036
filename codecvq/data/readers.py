"""The built-in readers of folders, manifests, `metadata.csv` and registered corpora."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from codecvq.api.hookspecs import CorpusSpec, ReaderSpec, hookimpl

MANIFESTS = (".jsonl", ".ndjson", ".csv", ".tsv")


@hookimpl
def codecvq_readers() -> Iterator[ReaderSpec]:
    """Register the readers `corpus`, `folder`, `manifest` and `metadata`."""
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
        summary="a folder of audio files, including its subfolders",
    )
    yield ReaderSpec(
        name="manifest",
        factory="codecvq.data.manifest:read_manifest",
        matches=is_manifest,
        general=True,
        summary="JSON lines or a table (CSV, TSV) with a column of audio paths",
    )
    yield ReaderSpec(
        name="metadata",
        factory="codecvq.data.metadata:read_metadata",
        matches="codecvq.data.metadata:is_metadata",
        summary="a folder with a metadata.csv in the layout of LJSpeech or Hugging Face audio folders",
    )


def is_registered_corpus(source: str) -> bool:
    """Whether a source is the name of a registered corpus. Files and folders take precedence."""
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
    """Whether a source has the suffix of a manifest. The file may be missing."""
    return Path(source).suffix.lower() in MANIFESTS and "://" not in source and not is_folder(source)


def _path_test(test: Callable[[str], bool], path: str) -> bool:
    try:
        return bool(test(path))
    except ValueError:  # NUL in the path
        return False

"""Opening a source: selects a reader, runs it and checks its result."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from codecvq.api.hookspecs import CorpusSpec, ReaderSpec
from codecvq.data.clips import ClipListing
from codecvq.data.stored_clips import to_listing
from codecvq.data.text import utf8_safe
from codecvq.errors import CodecvqError, CorpusError
from codecvq.escaping import printable
from codecvq.plugins import registry
from codecvq.plugins.options import check_options
from codecvq.plugins.registration import Registration
from codecvq.plugins.third_party import contained

logger = logging.getLogger("codecvq")

CORPUS = "corpus"  # the reader of registered corpora, the only one with an option `root`


def read_source(
    source: str | os.PathLike[str],
    reader: str | None = None,
    options: Mapping[str, Any] | None = None,  # Any: the options of a reader
    *,
    root: str | os.PathLike[str] | None = None,
) -> ClipListing:
    """Read the clips of a source.

    Args:
        reader: name of the reader; by default the only one that matches the source.
        options: keyword arguments of the reader.
        root: location of a registered corpus.

    Raises CorpusError if the source cannot be read, OptionError for an invalid option, and UnknownName if no
    plugin registers the reader.
    """
    text = expand_home(source)
    registration = registry().find(ReaderSpec, reader) if reader is not None else find_reader(text)
    options = dict(options or {})
    if root is not None:
        if registration.spec.name != CORPUS:
            raise CorpusError(f"root ({root}) is the location of a registered corpus. Omit it for {source}.")
        options["root"] = expand_home(root)
    label, factory = f"reader {registration.spec.name!r}", registration.load()
    check_options(label, registration, options, supplied=("source",))
    try:
        with contained():  # the reader may be a generator, which runs here
            listing = to_listing(factory(text, **options))
    except CodecvqError:
        raise
    except Exception as error:  # third-party code: its traceback does not help the user
        raise CorpusError(
            f"{label} of {registration.origin} failed with {printable(text)}: "
            f"{type(error).__name__}: {error}."
        ) from error
    if not listing.clips:
        first = f" The first failure: {listing.failures[0]}" if listing.failures else ""
        raise CorpusError(f"{label} found no clips in {printable(text)}.{first}")
    return replace(listing, name=listing.name or _default_name(text))


def find_reader(source: str) -> Registration[ReaderSpec]:
    """Find the reader that matches a source. Raises CorpusError if none or several match."""
    matching = [
        registration for registration in registry().all(ReaderSpec).values() if _matches(registration, source)
    ]
    specific = [registration for registration in matching if not registration.spec.general]
    candidates = specific or matching
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        both = " and ".join(registration.qualified_name for registration in candidates)
        raise CorpusError(
            f"{printable(source)} can be read by {both}. Name one of them: reader: "
            f"{candidates[0].spec.name} in a recipe, --reader {candidates[0].spec.name} on the command line."
        )
    raise _unknown_source(source)


def expand_home(path: str | os.PathLike[str]) -> str:
    """Replace a leading `~` by the home folder; URLs stay as they are."""
    try:
        return os.fspath(Path(path).expanduser()) if str(path).startswith("~") else os.fspath(path)
    except RuntimeError as error:  # ~nosuchuser
        raise CorpusError(f"{path}: {error}. Give the full path.") from error


def _matches(registration: Registration[ReaderSpec], source: str) -> bool:
    """Whether a reader matches the source. Logs a warning and returns False if the check fails."""
    if not registration.spec.matches:
        return False
    try:
        matches = registration.import_field(registration.spec.matches, "matches")
        with contained():
            return bool(matches(source))
    except Exception as error:  # third-party code
        why = f"{type(error).__name__}: {error}"
        logger.warning("reader %s of %s was not tried: %s", registration.spec.name, registration.origin, why)
        return False


def _unknown_source(source: str) -> CorpusError:
    """Return the error for a source without a matching reader. Raises UnknownName for an unknown name."""
    shown, readers = printable(source)[:300], ", ".join(registry().all(ReaderSpec))
    if _exists(source):
        return CorpusError(
            f"{shown} is neither a folder nor a manifest (.jsonl, .ndjson, .csv, .tsv), and no other reader "
            f"matches it. Name a reader, one of: {readers}. For single audio files use codecvq encode."
        )
    if "/" not in source:
        registry().find(CorpusSpec, source)  # raises an error that lists the known names
    return CorpusError(
        f"{shown} does not exist. Give a folder of audio, a manifest, or one of: "
        f"{', '.join(registry().all(CorpusSpec))}."
    )


def _exists(path: str) -> bool:
    try:
        return os.path.exists(path)
    except ValueError:  # NUL in the path
        return False


def _default_name(source: str) -> str:
    """Return the name of a corpus: of its folder, or of its file without the suffix."""
    if not _exists(source):
        return source
    return utf8_safe(Path(source).resolve().name if os.path.isdir(source) else Path(source).stem)

"""From a source to its clips: the reader that knows it, and what the reader gives."""

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

CORPUS = "corpus"  # the reader of registered corpora, the only one that takes a root


def read_source(
    source: str | os.PathLike[str],
    reader: str | None = None,
    options: Mapping[str, Any] | None = None,  # Any: what a reader takes
    *,
    root: str | os.PathLike[str] | None = None,
) -> ClipListing:
    """What a reader finds in a source; by default the one that knows it. `root` is where a registered corpus
    lies.

    Raises CorpusError where nothing can be read, OptionError for a wrong option, UnknownName for a reader
    that no plugin offers.
    """
    text = expand_home(source)
    registration = registry().find(ReaderSpec, reader) if reader is not None else find_reader(text)
    options = dict(options or {})
    if root is not None:
        if registration.spec.name != CORPUS:
            raise CorpusError(f"root ({root}) says where a named corpus lies; for {source} leave it out.")
        options["root"] = expand_home(root)
    what, factory = f"reader {registration.spec.name!r}", registration.load()
    check_options(what, registration, options, supplied=("source",))
    try:
        with contained():  # a generator runs here
            listing = to_listing(factory(text, **options))
    except CodecvqError:
        raise
    except Exception as error:  # a stranger's code; the user can do nothing with its traceback
        raise CorpusError(
            f"{what} of {registration.origin} failed with {printable(text)}: {type(error).__name__}: {error}."
        ) from error
    if not listing.clips:
        first = f" The first failure: {listing.failures[0]}" if listing.failures else ""
        raise CorpusError(f"{what} found no clips in {printable(text)}.{first}")
    return replace(listing, name=listing.name or _default_name(text))


def find_reader(source: str) -> Registration[ReaderSpec]:
    """The one reader that knows a source. Raises CorpusError where none or several do."""
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
            f"{printable(source)} can be read by {both}. Say which one is meant: reader: "
            f"{candidates[0].spec.name} in a recipe, --reader {candidates[0].spec.name} on the command line."
        )
    raise _unknown_source(source)


def expand_home(path: str | os.PathLike[str]) -> str:
    """The path with `~` as the home folder; an address as it is."""
    try:
        return os.fspath(Path(path).expanduser()) if str(path).startswith("~") else os.fspath(path)
    except RuntimeError as error:  # ~nosuchuser
        raise CorpusError(f"{path}: {error}. Give the whole path.") from error


def _matches(registration: Registration[ReaderSpec], source: str) -> bool:
    """Whether a reader knows the source. One that fails does not, and is named in a warning."""
    if not registration.spec.matches:
        return False
    try:
        matches = registration.import_field(registration.spec.matches, "matches")
        with contained():
            return bool(matches(source))
    except Exception as error:  # a stranger's code
        why = f"{type(error).__name__}: {error}"
        logger.warning("reader %s of %s was not tried: %s", registration.spec.name, registration.origin, why)
        return False


def _unknown_source(source: str) -> CorpusError:
    """The error for a source that no reader knows. Raises UnknownName for what can only be a name."""
    shown, readers = printable(source)[:300], ", ".join(registry().all(ReaderSpec))
    if _exists(source):
        return CorpusError(
            f"{shown} is neither a folder nor a manifest (.jsonl, .ndjson, .csv, .tsv), and no other reader "
            f"knows it. Name the reader that is meant, one of: {readers}. For single audio files: codecvq "
            "encode."
        )
    if "/" not in source:
        registry().find(CorpusSpec, source)  # its error lists the known names
    return CorpusError(
        f"{shown} does not exist. Give a folder of audio, a manifest, or one of: "
        f"{', '.join(registry().all(CorpusSpec))}."
    )


def _exists(path: str) -> bool:
    try:
        return os.path.exists(path)
    except ValueError:  # a NUL
        return False


def _default_name(source: str) -> str:
    """What a corpus is called: the name of its folder, or of its file without the suffix."""
    if not _exists(source):
        return source
    return utf8_safe(Path(source).resolve().name if os.path.isdir(source) else Path(source).stem)

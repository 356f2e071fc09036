"""The reader `corpus`, for corpora that plugins register (hook `codecvq_corpora`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from codecvq.api.hookspecs import CorpusSpec
from codecvq.data.clip import Clip, ClipFailure
from codecvq.data.clips import ClipListing
from codecvq.data.stored_clips import to_listing
from codecvq.errors import CodecvqError, CorpusError
from codecvq.plugins import registry


def read_registered_corpus(source: str, root: str | None = None) -> ClipListing:
    """Read the corpus registered as `source`. `root` is its location, if not the default.

    Raises UnknownName if no plugin registers the corpus, and CorpusError if it cannot be read or has no
    clips.
    """
    registration = registry().find(CorpusSpec, source)
    install = registration.spec.install
    install_hint = f" To get it: {install}" if install else ""
    factory: Callable[..., Iterable[Clip | ClipFailure]] = registration.load()
    try:
        listing = to_listing(factory(root=None if root is None else Path(root)))
    except CorpusError as error:
        raise CorpusError(f"corpus {source!r}: {error}{install_hint}") from error
    except CodecvqError:
        raise
    except Exception as error:  # third-party code: its traceback does not help the user
        raise CorpusError(
            f"corpus {source!r} of {registration.origin} failed: {type(error).__name__}: {error}."
            f"{install_hint}"
        ) from error
    if not listing.clips:
        raise CorpusError(f"corpus {source!r} has no clips{f' below {root}' if root else ''}.{install_hint}")
    return replace(listing, name=source)

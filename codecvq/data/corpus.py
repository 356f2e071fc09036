"""`Corpus`: clips with their speakers and their split into training, validation and test.

A reader (hook `codecvq_readers`) opens a source: a folder of audio, a manifest, a `metadata.csv`, or one or
several registered corpora (hook `codecvq_corpora`). Clips are created on access.

The split is a pure function of each clip: a hash of its id (or optionally of its speaker) assigns 5 % to test
and 5 % to validation. Adding clips does not change the split of other clips, and all machines
compute the same split.
Clips whose id is only a path in a folder are split by the content of their file, so that opening the parent
folder gives the same test clips. A clip may specify its split, which takes precedence.
`codecvq.data.split_file` stores the split of a run; the run uses the stored split from then on.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

import numpy as np

from codecvq.data.clip import Clip, ClipFailure
from codecvq.data.clips import ClipListing, Clips
from codecvq.data.durations import measure_clips
from codecvq.data.reading import read_source
from codecvq.data.splits import NONE, OTHER, SPLITS, Split, SplitBy, split_code, split_of
from codecvq.data.stored_clips import collect_clips
from codecvq.errors import CorpusError, nearest

__all__ = ["SPLITS", "Clip", "Corpus", "Split", "SplitBy", "open_corpus", "split_of"]


@dataclass(frozen=True)
class Corpus:
    """Clips in a fixed order; `failures` lists the clips that cannot be used."""

    name: str
    clips: Sequence[Clip]  # converted to `Clips`
    split_by: SplitBy = "clip"
    failures: tuple[ClipFailure, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "clips", Clips.from_clips(self.clips))

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)

    def __getitem__(self, index: int) -> Clip:
        return self.clips[index]

    @property
    def lazy_clips(self) -> Clips:
        """The clips as `Clips`, which has the values of all clips as arrays."""
        return cast(Clips, self.clips)

    @property
    def speakers(self) -> tuple[str, ...]:
        """The names of all speakers, sorted."""
        codes = np.unique(self.lazy_clips.speaker_codes).tolist()
        return tuple(sorted(name for code in codes if (name := self.lazy_clips.speakers[code])))

    @property
    def duration_s(self) -> float:
        """Total of the known durations in seconds; complete after `measured()`."""
        return float(np.nansum(self.lazy_clips.durations_s))

    def split_of(self, clip: Clip) -> Split:
        """Return the explicit split of a clip, or the split by the hash of its speaker, key or id."""
        if clip.split:
            return cast(Split, clip.split)  # checked when the corpus was opened
        return split_of(clip.speaker if self.split_by == "speaker" else clip.split_key or clip.id)

    def split(self, name: Split) -> Corpus:
        """Return the clips of one split. It may be empty if the corpus has few clips."""
        if name not in SPLITS:
            raise CorpusError(f"split {name!r} is not one of {', '.join(SPLITS)}.{nearest(name, SPLITS)}")
        positions = np.flatnonzero(self.lazy_clips.splits(self.split_by) == split_code(name))
        return replace(self, clips=self.lazy_clips.select(positions))

    def measured(self) -> Corpus:
        """Return the corpus with all durations measured in the files.

        Replaces wrong durations by those of the files and logs a warning. Clips that cannot be read, and
        parts after the end of their file, become failures.
        """
        if self.lazy_clips.measured.all():
            return self
        listing = measure_clips(self.lazy_clips, self.name)
        return replace(self, clips=listing.clips, failures=self.failures + listing.failures)


def open_corpus(
    name: str | Sequence[str] | None = None,
    *,
    source: str | os.PathLike[str] | None = None,
    reader: str | None = None,
    options: Mapping[str, Any] | None = None,  # Any: the options of a reader
    folder: str | os.PathLike[str] | None = None,
    manifest: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    split_by: SplitBy = "clip",
    speakers: Collection[str] | None = None,
    exclude_speakers: Collection[str] = (),
) -> Corpus:
    """Open a corpus from exactly one of `name`, `source`, `folder` and `manifest`.

    Args:
        name: a registered corpus, or several, whose clips are merged.
        source: anything that a reader can open; `reader` names the reader, by default the one that matches.
        options: keyword arguments of the reader.
        folder: a folder of audio files.
        manifest: a manifest file.
        root: the location of registered corpora, if not the default.
        split_by: whether the hash of the clip or of the speaker determines the split.
        speakers: if given, only these speakers are included.
        exclude_speakers: these speakers are excluded.

    Raises CorpusError if the source is missing, empty or inconsistent. Clips whose
    audio file is missing are listed in `failures`.
    """
    names = [name] if isinstance(name, str) else list(name or ())
    sources = [value for value in ("+".join(names) or None, source, folder, manifest) if value is not None]
    if len(sources) != 1:
        raise CorpusError(
            f"a corpus needs exactly one of name, source, folder and manifest, but {len(sources)} were given"
            f"{': ' + ', '.join(map(str, sources)) if sources else ''}. Give one of them."
        )
    if source is None and (reader is not None or options):
        raise CorpusError(
            f"reader ({reader}) and options need a source, but none is given. "
            f"Give {sources[0]} as the source."
        )
    if root is not None and (folder is not None or manifest is not None):
        raise CorpusError(
            f"root ({root}) is the location of a registered corpus. Omit it for a folder or a manifest."
        )
    if split_by not in get_args(SplitBy):
        raise CorpusError(
            f"split_by is {split_by!r}, but 'clip' or 'speaker' is "
            f"needed.{nearest(split_by, get_args(SplitBy))}"
        )
    if names:
        listing = _merge([read_source(each, "corpus", root=root) for each in _check_unique(names)])
    elif folder is not None:
        listing = read_source(folder, "folder")
    elif manifest is not None:
        listing = read_source(manifest, "manifest")
    else:
        listing = read_source(sources[0], reader, options, root=root)
    corpus = Corpus(listing.name, listing.clips, split_by, listing.failures)
    corpus = replace(corpus, clips=_select_speakers(corpus, speakers, exclude_speakers))
    _check(corpus)
    return corpus


def _check_unique(names: Sequence[str]) -> Sequence[str]:
    if len(set(names)) < len(names):
        raise CorpusError(f"the corpora {', '.join(names)} contain a duplicate. Name each corpus once.")
    return names


def _merge(listings: Sequence[ClipListing]) -> ClipListing:
    if len(listings) == 1:
        return listings[0]
    clips = itertools.chain.from_iterable(listing.clips for listing in listings)
    failures = tuple(failure for listing in listings for failure in listing.failures)
    return replace(
        collect_clips(clips), failures=failures, name="+".join(listing.name for listing in listings)
    )


def _select_speakers(corpus: Corpus, include: Collection[str] | None, exclude: Collection[str]) -> Clips:
    if include is None and not exclude:
        return corpus.lazy_clips
    known = corpus.speakers
    for speaker in (*(include or ()), *exclude):
        if speaker not in known:
            some = (
                ", ".join(known[:20]) + (" …" if len(known) > 20 else "")
                if known
                else "none (the clips have no speakers)"
            )
            raise CorpusError(
                f"corpus {corpus.name!r} has no speaker {speaker!r}.{nearest(speaker, known)} Its "
                f"speakers: {some}."
            )
    selected = np.array(
        [(include is None or name in include) and name not in exclude for name in corpus.lazy_clips.speakers],
        np.bool_,
    )
    return corpus.lazy_clips.select(np.flatnonzero(selected[corpus.lazy_clips.speaker_codes]))


def _check(corpus: Corpus) -> None:
    """Raise CorpusError for an empty corpus, duplicate ids, unknown splits, or missing speakers."""
    clips = corpus.lazy_clips
    if not clips:
        raise CorpusError(
            f"corpus {corpus.name!r} has no clips left: all its speakers are excluded. Change speakers or "
            "exclude_speakers."
        )
    if duplicate := clips.duplicate_ids():
        first, second = clips[duplicate[0]], clips[duplicate[1]]
        raise CorpusError(
            f"corpus {corpus.name!r}: two clips have the id {first.id!r}: {first.path} and {second.path}. "
            "Remove one, or use a manifest with unique ids."
        )
    if (unknown := np.flatnonzero(clips.explicit_splits == OTHER)).size:
        clip = clips[int(unknown[0])]
        raise CorpusError(
            f"corpus {corpus.name!r}: clip {clip.id!r} has the split {clip.split!r}, which is not one of "
            f"{', '.join(SPLITS)}."
            f"{nearest(clip.split, SPLITS)}"
        )
    unnamed = [code for code, name in enumerate(clips.speakers) if not name]
    without = np.isin(clips.speaker_codes, unnamed) & (clips.explicit_splits == NONE)
    if corpus.split_by == "speaker" and without.any():
        clip = clips[int(without.argmax())]
        raise CorpusError(
            f"corpus {corpus.name!r}: clip {clip.id!r} has no speaker, so the corpus cannot be "
            "split by speaker. "
            "Use split_by 'clip', or a manifest with a speaker column."
        )

"""Speech to train on: clips, who speaks them, and which of them are for training, validation and test.

A corpus is what a reader (hook `codecvq_readers`) finds in a source: a folder of audio, a manifest, a
`metadata.csv`, or one or several registered names (hook `codecvq_corpora`). Its clips are made when they are
used. Its split is a pure function of each clip: 5 % test and 5 % validation by a hash of its id (or of its
speaker, on request), so that adding clips moves none of the others, and two machines agree without sharing a
list. Clips that have no id but their place in a folder are split by what is in their files instead: a folder
opened from above has the same test clips. A clip may say its own split, which then holds.
`codecvq.data.split_file` writes down the split of a run, which holds for that run from then on.
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
    """Clips in a fixed order; those that could not be used stand in `failures`."""

    name: str
    clips: Sequence[Clip]  # kept as `Clips`
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
        """The clips, with what is known of all of them at once."""
        return cast(Clips, self.clips)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Every speaker that is known, sorted."""
        codes = np.unique(self.lazy_clips.speaker_codes).tolist()
        return tuple(sorted(name for code in codes if (name := self.lazy_clips.speakers[code])))

    @property
    def duration_s(self) -> float:
        """Seconds of speech, as far as they are known: complete after `measured()`."""
        return float(np.nansum(self.lazy_clips.durations_s))

    def split_of(self, clip: Clip) -> Split:
        """The split of a clip: its own word, or the hash of its speaker, its `split_key` or its id."""
        if clip.split:
            return cast(Split, clip.split)  # checked when the corpus was opened
        return split_of(clip.speaker if self.split_by == "speaker" else clip.split_key or clip.id)

    def split(self, which: Split) -> Corpus:
        """The clips of one split. It may be empty: five per cent of a few clips can be none."""
        if which not in SPLITS:
            raise CorpusError(f"split {which!r} is none of {', '.join(SPLITS)}.{nearest(which, SPLITS)}")
        positions = np.flatnonzero(self.lazy_clips.splits(self.split_by) == split_code(which))
        return replace(self, clips=self.lazy_clips.select(positions))

    def measured(self) -> Corpus:
        """The same corpus with every duration known and compared with the file.

        A length that the corpus tells is replaced by the file's where it is wrong, with a warning. What
        cannot be read, and parts that lie behind the end of their file, are failures.
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
    options: Mapping[str, Any] | None = None,  # Any: what a reader takes
    folder: str | os.PathLike[str] | None = None,
    manifest: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    split_by: SplitBy = "clip",
    speakers: Collection[str] | None = None,
    exclude_speakers: Collection[str] = (),
) -> Corpus:
    """A corpus from exactly one of: a `source`, which is read by the `reader` of that name with its
    `options`, or by the one that knows it; or, as short for a source and its reader, a registered name, or
    several for all their clips together (`root`: where they lie, if not in their usual places), a folder, a
    manifest.

    `speakers` keeps only these, `exclude_speakers` drops these. Raises CorpusError for what is missing,
    empty, or contradicts itself; single files that are missing are listed in the corpus's `failures`.
    """
    names = [name] if isinstance(name, str) else list(name or ())
    given = [value for value in ("+".join(names) or None, source, folder, manifest) if value is not None]
    if len(given) != 1:
        raise CorpusError(
            f"a corpus needs exactly one of name, source, folder and manifest, but {len(given)} were given"
            f"{': ' + ', '.join(map(str, given)) if given else ''}. Keep one of them."
        )
    if source is None and (reader is not None or options):
        raise CorpusError(
            f"reader ({reader}) and options say how a source is read, but there is no source. Give "
            f"{given[0]} as the source."
        )
    if root is not None and (folder is not None or manifest is not None):
        raise CorpusError(
            f"root ({root}) says where a named corpus lies; for a folder or a manifest leave it out."
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
        listing = read_source(given[0], reader, options, root=root)
    corpus = Corpus(listing.name, listing.clips, split_by, listing.failures)
    corpus = replace(corpus, clips=_select_speakers(corpus, speakers, exclude_speakers))
    _check(corpus)
    return corpus


def _check_unique(names: Sequence[str]) -> Sequence[str]:
    if len(set(names)) < len(names):
        raise CorpusError(f"the corpora {', '.join(names)}: one is named twice. Name each once.")
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
                else "none, its clips name no speaker"
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
    """Raises CorpusError for no clips, an id twice, an unknown split, or no speaker to split by."""
    clips = corpus.lazy_clips
    if not clips:
        raise CorpusError(
            f"corpus {corpus.name!r} keeps no clips: its speakers are all left out. Change speakers or "
            "exclude_speakers."
        )
    if duplicate := clips.duplicate_ids():
        first, second = clips[duplicate[0]], clips[duplicate[1]]
        raise CorpusError(
            f"corpus {corpus.name!r}: two clips have the id {first.id!r}: {first.path} and {second.path}. "
            "Remove one, or use a manifest with ids of their own."
        )
    if (unknown := np.flatnonzero(clips.explicit_splits == OTHER)).size:
        clip = clips[int(unknown[0])]
        raise CorpusError(
            f"corpus {corpus.name!r}: clip {clip.id!r} has the split {clip.split!r}, which is none of "
            f"{', '.join(SPLITS)}."
            f"{nearest(clip.split, SPLITS)}"
        )
    unnamed = [code for code, name in enumerate(clips.speakers) if not name]
    without = np.isin(clips.speaker_codes, unnamed) & (clips.explicit_splits == NONE)
    if corpus.split_by == "speaker" and without.any():
        clip = clips[int(without.argmax())]
        raise CorpusError(
            f"corpus {corpus.name!r}: clip {clip.id!r} names no speaker, so the corpus cannot be "
            "split by speaker. "
            "Use split_by 'clip', or a manifest with a speaker column."
        )

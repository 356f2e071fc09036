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
from codecvq.data.clips import Clips, Listing
from codecvq.data.measuring import measured_clips
from codecvq.data.reading import read_source
from codecvq.data.splits import NONE, OTHER, SPLITS, Split, SplitBy, split_code, split_of
from codecvq.data.stored import stored
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
        object.__setattr__(self, "clips", Clips.of(self.clips))

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)

    def __getitem__(self, index: int) -> Clip:
        return self.clips[index]

    @property
    def lazy(self) -> Clips:
        """The clips, with what is known of all of them at once."""
        return cast(Clips, self.clips)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Every speaker that is known, sorted."""
        codes = np.unique(self.lazy.speaker_codes).tolist()
        return tuple(sorted(name for code in codes if (name := self.lazy.speakers[code])))

    @property
    def duration_s(self) -> float:
        """Seconds of speech, as far as they are known: complete after `measured()`."""
        return float(np.nansum(self.lazy.durations_s))

    def split_of(self, clip: Clip) -> Split:
        """The split of a clip: its own word, or the hash of its speaker, its `split_key` or its id."""
        if clip.split:
            return cast(Split, clip.split)  # checked when the corpus was opened
        return split_of(clip.speaker if self.split_by == "speaker" else clip.split_key or clip.id)

    def split(self, which: Split) -> Corpus:
        """The clips of one split. It may be empty: five per cent of a few clips can be none."""
        if which not in SPLITS:
            raise CorpusError(f"split {which!r} is none of {', '.join(SPLITS)}.{nearest(which, SPLITS)}")
        positions = np.flatnonzero(self.lazy.splits(self.split_by) == split_code(which))
        return replace(self, clips=self.lazy.taken(positions))

    def measured(self) -> Corpus:
        """The same corpus with every duration known and compared with the file.

        A length that the corpus tells is replaced by the file's where it is wrong, with a warning. What
        cannot be read, and parts that lie behind the end of their file, are failures.
        """
        if self.lazy.measured.all():
            return self
        found = measured_clips(self.lazy, self.name)
        return replace(self, clips=found.clips, failures=self.failures + found.failures)


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
        found = _together([read_source(each, "corpus", root=root) for each in _each_once(names)])
    elif folder is not None:
        found = read_source(folder, "folder")
    elif manifest is not None:
        found = read_source(manifest, "manifest")
    else:
        found = read_source(given[0], reader, options, root=root)
    corpus = Corpus(found.name, found.clips, split_by, found.failures)
    corpus = replace(corpus, clips=_keep_speakers(corpus, speakers, exclude_speakers))
    _check(corpus)
    return corpus


def _each_once(names: Sequence[str]) -> Sequence[str]:
    if len(set(names)) < len(names):
        raise CorpusError(f"the corpora {', '.join(names)}: one is named twice. Name each once.")
    return names


def _together(found: Sequence[Listing]) -> Listing:
    if len(found) == 1:
        return found[0]
    clips = itertools.chain.from_iterable(listing.clips for listing in found)
    failures = tuple(failure for listing in found for failure in listing.failures)
    return replace(stored(clips), failures=failures, name="+".join(listing.name for listing in found))


def _keep_speakers(corpus: Corpus, keep: Collection[str] | None, drop: Collection[str]) -> Clips:
    if keep is None and not drop:
        return corpus.lazy
    known = corpus.speakers
    for speaker in (*(keep or ()), *drop):
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
    kept = np.array(
        [(keep is None or name in keep) and name not in drop for name in corpus.lazy.speakers], np.bool_
    )
    return corpus.lazy.taken(np.flatnonzero(kept[corpus.lazy.speaker_codes]))


def _check(corpus: Corpus) -> None:
    """Raises CorpusError for no clips, an id twice, an unknown split, or no speaker to split by."""
    clips = corpus.lazy
    if not clips:
        raise CorpusError(
            f"corpus {corpus.name!r} keeps no clips: its speakers are all left out. Change speakers or "
            "exclude_speakers."
        )
    if same := clips.same_ids():
        one, other = clips[same[0]], clips[same[1]]
        raise CorpusError(
            f"corpus {corpus.name!r}: two clips have the id {one.id!r}: {one.path} and {other.path}. "
            "Remove one, or use a manifest with ids of their own."
        )
    if (unknown := np.flatnonzero(clips.own_splits == OTHER)).size:
        clip = clips[int(unknown[0])]
        raise CorpusError(
            f"corpus {corpus.name!r}: clip {clip.id!r} has the split {clip.split!r}, which is none of "
            f"{', '.join(SPLITS)}."
            f"{nearest(clip.split, SPLITS)}"
        )
    nobody = [code for code, name in enumerate(clips.speakers) if not name]
    without = np.isin(clips.speaker_codes, nobody) & (clips.own_splits == NONE)
    if corpus.split_by == "speaker" and without.any():
        clip = clips[int(without.argmax())]
        raise CorpusError(
            f"corpus {corpus.name!r}: clip {clip.id!r} names no speaker, so the corpus cannot be "
            "split by speaker. "
            "Use split_by 'clip', or a manifest with a speaker column."
        )

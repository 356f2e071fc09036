"""Selects and defines the checks of a reader: what a corpus requires of clips.

The first line of each docstring states the guarantee.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from codecvq.api.hookspecs import ReaderSpec
from codecvq.data import SPLITS, Clip, Corpus
from codecvq.data.clips import ClipListing
from codecvq.data.reading import read_source
from codecvq.errors import AudioError, CodecvqError
from codecvq.plugins import registry
from codecvq.plugins.registration import Registration
from codecvq.testing.check import Check, CheckSkipped, expect, summary_of
from codecvq.testing.source import PluginSource

SAMPLED_CLIPS = 8  # number of clips whose audio is read
DURATION_TOLERANCE_S = 0.02
INVALID_SOURCES = ("", "no such thing", "/no/such/folder/x.unknown", "a\0b", "\udcff", "unknown://host/x")


@dataclass(frozen=True)
class ReaderCase:
    """A reader under test and a source that it can read."""

    registration: Registration[ReaderSpec]
    source: str
    options: dict[str, Any]  # Any: the reader defines the types of its options

    def read(self) -> ClipListing:
        """Read the source again."""
        return read_source(self.source, self.registration.qualified_name, self.options)

    @cached_property
    def listing(self) -> ClipListing:
        """The clips of the source, read once."""
        return self.read()

    @property
    def sampled(self) -> list[Clip]:
        """A few clips, spread evenly over the listing."""
        clips = self.listing.clips
        return (
            [clips[i * len(clips) // SAMPLED_CLIPS] for i in range(SAMPLED_CLIPS)]
            if len(clips) > SAMPLED_CLIPS
            else list(clips)
        )

    @cached_property
    def readable(self) -> list[tuple[Clip, int]]:
        """The clips of `sampled` whose audio can be read, with their sample rates."""
        readable = []
        for clip in self.sampled:
            try:
                readable.append((clip, clip.audio.read(start_s=clip.start_s, duration_s=0.01).sample_rate))
            except (AudioError, OSError):
                continue
        return readable


def reader_checks(name: str, source: str, **options: Any) -> Iterator[Check]:
    """Yield every check of a registered reader.

    `source` must contain clips, at least one of them with audio. Raises UnknownName if no plugin registers
    the reader.
    """
    registration = registry().find(ReaderSpec, name)
    case, factory = ReaderCase(registration, source, options), registration.load()
    code = PluginSource(factory)
    first: tuple[Check, ...] = ()
    for test in TESTS:
        check = Check(
            f"{registration.spec.name}/{test.__name__}",
            summary_of(test),
            functools.partial(test, case),
            first,
            code,
        )
        first = first or (check,)
        yield check


def clips(case: ReaderCase) -> None:
    """The source can be read to a corpus with a name."""
    expect(bool(case.listing.name), "the corpus has no name")


def ids(case: ReaderCase) -> None:
    """Each clip has a unique, non-empty id and a known split or none."""
    corpus = Corpus("checked", case.listing.clips)
    if same := corpus.lazy_clips.duplicate_ids():
        one, other = (corpus[index] for index in same)
        expect(False, f"clips {same[0]} and {same[1]} have the id {one.id!r}: {one.path} and {other.path}")
    for clip in case.sampled:
        expect(bool(clip.id), f"a clip has no id: {clip.path}")
        expect(clip.split in ("", *SPLITS), f"clip {clip.id!r} has the split {clip.split!r}")


def order(case: ReaderCase) -> None:
    """Reading a source twice gives the same clips in the same order."""
    again = case.read()
    expect(
        len(again.clips) == len(case.listing.clips),
        f"{len(case.listing.clips)} clips, then {len(again.clips)}",
    )
    for index, (one, other) in enumerate(zip(case.listing.clips, again.clips, strict=True)):
        expect(one == other, f"clip {index} is {one}, then {other}")


def indexing(case: ReaderCase) -> None:
    """Indexing and iteration give the same clips, each time."""
    for index, clip in enumerate(case.listing.clips):
        if index % max(1, len(case.listing.clips) // SAMPLED_CLIPS) == 0:
            expect(clip == case.listing.clips[index], f"clip {index} differs between indexing and iteration")
            expect(
                case.listing.clips[index] == case.listing.clips[index], f"clip {index} changes between reads"
            )


def pickling(case: ReaderCase) -> None:
    """The clips can be pickled for other processes, as a whole and one by one."""
    unpickled = pickle.loads(pickle.dumps(case.listing.clips))
    expect(
        len(unpickled) == len(case.listing.clips),
        f"{len(unpickled)} of {len(case.listing.clips)} clips are unpickled",
    )
    for clip in case.sampled:
        expect(pickle.loads(pickle.dumps(clip)) == clip, f"clip {clip.id!r} differs after pickling")
        hash(clip.audio)


def audio(case: ReaderCase) -> None:
    """The audio of a clip is finite, or reading it raises an AudioError or OSError with a message."""
    read = False
    for clip in case.sampled:
        try:
            samples = clip.read(16000)
        except (AudioError, OSError) as error:
            expect(bool(str(error)), f"clip {clip.id!r}: {type(error).__name__} without a message")
            continue
        expect(samples.dtype == np.float32 and samples.ndim == 1, f"clip {clip.id!r}: {samples.dtype}")
        expect(
            samples.size > 0 and bool(np.isfinite(samples).all()), f"clip {clip.id!r} has no finite samples"
        )
        read = True
    expect(read, "no clip has readable audio; use a source that has some")


def partial_reads(case: ReaderCase) -> None:
    """A part of a recording has the same samples as that part of the whole."""
    _needs_audio(case)
    for clip, rate in case.readable:
        whole = clip.audio.read().samples
        if whole.shape[1] < 100:
            continue
        first, count = whole.shape[1] // 3, whole.shape[1] // 4
        part = clip.audio.read(start_s=first / rate, duration_s=count / rate).samples
        needed = whole[:, first : first + count]
        expect(part.shape == needed.shape, f"clip {clip.id!r}: {list(part.shape)}, not {list(needed.shape)}")
        expect(np.allclose(part, needed, atol=1e-4), f"clip {clip.id!r}: a part has different samples")


def durations(case: ReaderCase) -> None:
    """The reported length of a recording is the length of the samples read."""
    _needs_audio(case)
    for clip, rate in case.readable:
        reported_s, read_s = clip.audio.length_s(), clip.audio.read().samples.shape[1] / rate
        expect(
            abs(reported_s - read_s) <= DURATION_TOLERANCE_S,
            f"clip {clip.id!r}: {reported_s:.3f} s are reported, {read_s:.3f} s are read",
        )
    measured = Corpus("checked", [clip for clip, _ in case.readable]).measured()
    for failure in measured.failures:
        expect(False, f"clip {failure}")


def identity(case: ReaderCase) -> None:
    """The identity of a recording does not depend on the clip's id and differs between recordings."""
    _needs_audio(case)
    clips_by_identity: dict[str, Clip] = {}
    for clip, _ in case.readable:
        digest = clip.identity()
        expect(
            replace(clip, id="another").identity() == digest,
            f"the identity of clip {clip.id!r} depends on its id",
        )
        other = clips_by_identity.setdefault(digest, clip)
        expect(
            other is clip or np.array_equal(other.read(16000), clip.read(16000)),
            f"clips {other.id!r} and {clip.id!r} have the same identity but different samples",
        )


def unknown_sources(case: ReaderCase) -> None:
    """It matches no invalid source, and reading a missing source raises a CodecvqError."""
    spec = case.registration.spec
    if spec.matches:
        matches = case.registration.import_field(spec.matches, "matches")
        for source in INVALID_SOURCES:
            expect(not matches(source), f"it matches {source!r}")
    for source in INVALID_SOURCES[1:]:
        try:
            read_source(source, case.registration.qualified_name, case.options)
        except CodecvqError as error:
            expect(" failed with " not in str(error), f"{source!r}: {error}")
        else:
            expect(False, f"reading {source!r} raises no error")


def _needs_audio(case: ReaderCase) -> None:
    if not case.readable:
        raise CheckSkipped("because no clip has readable audio")


TESTS: tuple[Callable[[ReaderCase], None], ...] = (
    clips, ids, order, indexing, pickling, audio, partial_reads, durations, identity, unknown_sources,
)  # fmt: skip

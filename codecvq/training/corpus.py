"""Speech to train on: clips, who speaks them, and which of them are for training, validation and test.

A corpus is a folder of audio, a manifest, or one or several registered names (hook `codecvq_corpora`). Its
split is a pure function of what a clip is called: 5 % test and 5 % validation by a hash of the clip's id (or
of its speaker, on request), so that adding clips moves none of the others, and two machines agree without
sharing a list. A clip may say its own split, which then holds.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from codecvq.audio import AUDIO_SUFFIXES, duration_s, find_audio, read_audio, resample, to_mono
from codecvq.errors import AudioError, CodecvqError, CorpusError, nearest
from codecvq.files import write_atomically
from codecvq.strangers import contained

Split = Literal["train", "validation", "test"]
SplitBy = Literal["clip", "speaker"]
SPLITS: tuple[Split, ...] = get_args(Split)
TEST_SHARE, VALIDATION_SHARE = 0.05, 0.05


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One utterance: a file, or a part of one, and what is known about it."""

    id: str
    path: Path
    text: str = ""
    speaker: str = ""
    language: str = ""  # BCP 47, like "en-US"
    licence: str = ""
    split: str = ""  # "train", "validation" or "test" where the corpus fixes it; empty for "by the hash"
    split_key: str = ""  # what the hash is taken of, where not the id: clips that say the same share one
    start_s: float = 0.0
    duration_s: float | None = None  # None: to the end of the file, wherever that is
    open_end: bool = False  # `duration_s` only tells, perhaps rounded; the clip goes to the end of its file
    #: A manifest's own columns, untouched; Any: JSON values.
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def read(self, sample_rate: int) -> npt.NDArray[np.float32]:
        """The clip's samples `[S]`, mono, at that rate. Raises AudioError."""
        length_s = None if self.open_end else self.duration_s
        audio = read_audio(self.path, start_s=self.start_s, duration_s=length_s)
        return resample(to_mono(audio.samples), audio.sample_rate, sample_rate)


@dataclass(frozen=True)
class ClipFailure:
    """A clip that cannot be used, and why."""

    id: str
    path: Path
    error: str

    def __str__(self) -> str:
        return f"{self.id}: {self.error}"


@dataclass(frozen=True)
class Corpus:
    """Clips in a fixed order; those that could not be used stand in `failures`."""

    name: str
    clips: tuple[Clip, ...]
    split_by: SplitBy = "clip"
    failures: tuple[ClipFailure, ...] = ()

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)

    def __getitem__(self, index: int) -> Clip:
        return self.clips[index]

    @property
    def speakers(self) -> tuple[str, ...]:
        """Every speaker that is known, sorted."""
        return tuple(sorted({clip.speaker for clip in self.clips if clip.speaker}))

    @property
    def duration_s(self) -> float:
        """Seconds of speech, as far as they are known: complete after `measured()`."""
        return sum(clip.duration_s or 0.0 for clip in self.clips)

    def split_of(self, clip: Clip) -> Split:
        """The split of a clip: its own word, or the hash of its speaker, its `split_key` or its id."""
        if clip.split:
            return cast(Split, clip.split)  # checked when the corpus was opened
        return split_of(clip.speaker if self.split_by == "speaker" else clip.split_key or clip.id)

    def split(self, which: Split) -> Corpus:
        """The clips of one split. It may be empty: five per cent of a few clips can be none."""
        if which not in SPLITS:
            raise CorpusError(f"split {which!r} is none of {', '.join(SPLITS)}.{nearest(which, SPLITS)}")
        return replace(self, clips=tuple(clip for clip in self.clips if self.split_of(clip) == which))

    def measured(self) -> Corpus:
        """The same corpus with every duration known, from the files' headers; the unreadable are failures."""
        if all(clip.duration_s is not None for clip in self.clips):
            return self
        with ThreadPoolExecutor() as pool:  # opening a file waits for the disk, often across a network
            measured = list(pool.map(_measure, self.clips))
        return replace(
            self,
            clips=tuple(clip for clip in measured if isinstance(clip, Clip)),
            failures=self.failures + tuple(item for item in measured if isinstance(item, ClipFailure)),
        )


def split_of(key: str) -> Split:
    """The split that a hash gives to an id or speaker: 5 % "test", 5 % "validation", the rest "train"."""
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if share < TEST_SHARE:
        return "test"
    return "validation" if share < TEST_SHARE + VALIDATION_SHARE else "train"


def open_corpus(
    name: str | Sequence[str] | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    manifest: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    split_by: SplitBy = "clip",
    speakers: Collection[str] | None = None,
    exclude_speakers: Collection[str] = (),
) -> Corpus:
    """A corpus from exactly one of: a registered name, or several for all their clips together (`root`: where
    they lie, if not in their usual places), a folder, a manifest.

    `speakers` keeps only these, `exclude_speakers` drops these. Raises CorpusError for what is missing,
    empty, or contradicts itself; single files that are missing are listed in the corpus's `failures`.
    """
    names = [name] if isinstance(name, str) else list(name or ())
    given = [value for value in ("+".join(names) or None, folder, manifest) if value is not None]
    if len(given) != 1:
        raise CorpusError(
            f"a corpus needs exactly one of name, folder and manifest, but {len(given)} were given"
            f"{': ' + ', '.join(map(str, given)) if given else ''}. Keep one of them."
        )
    if root is not None and not names:
        raise CorpusError(
            f"root ({root}) says where a named corpus lies; for a folder or a manifest leave it out."
        )
    if split_by not in get_args(SplitBy):
        raise CorpusError(
            f"split_by is {split_by!r}, but 'clip' or 'speaker' is "
            f"needed.{nearest(split_by, get_args(SplitBy))}"
        )
    if names:
        corpus = _open_together(names, Path(root).expanduser() if root is not None else None)
    elif folder is not None:
        corpus = _open_folder(Path(folder).expanduser())
    else:
        from codecvq.training.manifest import read_manifest

        corpus = read_manifest(Path(cast(str, manifest)).expanduser())
    corpus = replace(corpus, split_by=split_by, clips=_keep_speakers(corpus, speakers, exclude_speakers))
    _check(corpus)
    return corpus


def write_split(corpus: Corpus, path: str | os.PathLike[str]) -> Path:
    """The JSON-lines file written: `id`, `split`, `speaker` and `duration` in seconds of every clip."""
    rows = (
        {
            "id": clip.id,
            "split": corpus.split_of(clip),
            "speaker": clip.speaker,
            "duration": clip.duration_s,
        }
        for clip in corpus.measured()
    )
    path = Path(path)
    write_atomically(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    return path


def _measure(clip: Clip) -> Clip | ClipFailure:
    if clip.duration_s is not None:
        return clip
    try:
        rest_s = duration_s(clip.path) - clip.start_s
        if rest_s <= 0:
            raise AudioError(f"{clip.path} has no samples from {clip.start_s:g} s on.")
        return replace(clip, duration_s=rest_s, open_end=True)
    except AudioError as error:
        return ClipFailure(clip.id, clip.path, str(error))


def _open_together(names: Sequence[str], root: Path | None) -> Corpus:
    if len(set(names)) < len(names):
        raise CorpusError(f"the corpora {', '.join(names)}: one is named twice. Name each once.")
    corpora = [_open_registered(name, root) for name in names]
    clips = tuple(clip for corpus in corpora for clip in corpus)
    return Corpus("+".join(corpus.name for corpus in corpora), clips)


def _open_registered(name: str, root: Path | None) -> Corpus:
    from codecvq.plugins import registry

    offer = registry().find("corpora", name)
    install = getattr(offer.spec, "install", "")
    how = f" To get it: {install}" if install else ""
    factory: Callable[..., Iterable[Clip]] = offer.load()
    try:
        with contained():  # a generator: it runs here
            clips = tuple(factory(root=root))
    except CorpusError as error:
        raise CorpusError(f"corpus {name!r}: {error}{how}") from error
    except CodecvqError:
        raise
    except Exception as error:  # a stranger's code; the user can do nothing with its traceback
        raise CorpusError(
            f"corpus {name!r} of {offer.origin} failed: {type(error).__name__}: {error}.{how}"
        ) from error
    if not clips:
        raise CorpusError(f"corpus {name!r} has no clips{f' below {root}' if root else ''}.{how}")
    return Corpus(name, clips)


def _open_folder(folder: Path) -> Corpus:
    if not folder.is_dir():
        raise CorpusError(
            f"the corpus folder {folder} {'is a file' if folder.exists() else 'does not exist'}. "
            "Give a folder of audio files (or a manifest under 'manifest')."
        )
    paths = find_audio(folder)
    if not paths:
        kinds = ", ".join(sorted(AUDIO_SUFFIXES))
        raise CorpusError(
            f"the corpus folder {folder} holds no audio. Put files in it with one of these suffixes: {kinds}."
        )
    clips = (Clip(id=path.relative_to(folder).with_suffix("").as_posix(), path=path) for path in paths)
    return Corpus(folder.resolve().name, tuple(clips))


def _keep_speakers(corpus: Corpus, keep: Collection[str] | None, drop: Collection[str]) -> tuple[Clip, ...]:
    if keep is None and not drop:
        return corpus.clips
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
    return tuple(
        clip for clip in corpus.clips if (keep is None or clip.speaker in keep) and clip.speaker not in drop
    )


def _check(corpus: Corpus) -> None:
    """Raises CorpusError for no clips, an id twice, an unknown split, or no speaker to split by."""
    if not corpus.clips:
        raise CorpusError(
            f"corpus {corpus.name!r} keeps no clips: its speakers are all left out. Change speakers or "
            "exclude_speakers."
        )
    first: dict[str, Clip] = {}
    for clip in corpus.clips:
        other = first.setdefault(clip.id, clip)
        if other is not clip:
            raise CorpusError(
                f"corpus {corpus.name!r}: two clips have the id {clip.id!r}: {other.path} and {clip.path}. "
                "Remove one, or use a manifest with ids of their own."
            )
        if clip.split and clip.split not in SPLITS:
            raise CorpusError(
                f"corpus {corpus.name!r}: clip {clip.id!r} has the split {clip.split!r}, which is none of "
                f"{', '.join(SPLITS)}."
                f"{nearest(clip.split, SPLITS)}"
            )
        if corpus.split_by == "speaker" and not clip.speaker and not clip.split:
            raise CorpusError(
                f"corpus {corpus.name!r}: clip {clip.id!r} names no speaker, so the corpus cannot be "
                "split by speaker. "
                "Use split_by 'clip', or a manifest with a speaker column."
            )

"""Speech to train on: clips, who speaks them, and which of them are for training, validation and test.

A corpus is a folder of audio, a manifest, or one or several registered names (hook `codecvq_corpora`). Its
split is a pure function of each clip: 5 % test and 5 % validation by a hash of its id (or of its speaker, on
request), so that adding clips moves none of the others, and two machines agree without sharing a list. Clips
that have no id but their place in a folder are split by what is in their files instead: a folder opened from
above has the same test clips. A clip may say its own split, which then holds. `training.split_file` writes
down the split of a run, which holds for that run from then on.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args

from codecvq.audio import AUDIO_SUFFIXES, duration_s, find_audio
from codecvq.data.clip import Clip, ClipFailure
from codecvq.data.fingerprint import fingerprint
from codecvq.data.text import writable
from codecvq.errors import AudioError, CodecvqError, CorpusError, nearest
from codecvq.escaping import printable
from codecvq.plugins.strangers import contained

logger = logging.getLogger("codecvq")

Split = Literal["train", "validation", "test"]
SplitBy = Literal["clip", "speaker"]
SPLITS: tuple[Split, ...] = get_args(Split)
TEST_SHARE, VALIDATION_SHARE = 0.05, 0.05
#: Seconds, and share of the file: by more than both, a length that was told is wrong and not just rounded
TOLD_WRONG_S, TOLD_WRONG = 0.5, 0.02


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
        """The same corpus with every duration known and compared with the file.

        A length that the corpus tells is replaced by the file's where it is wrong, with a warning. What
        cannot be read, and parts that lie behind the end of their file, are failures.
        """
        paths = list(dict.fromkeys(clip.path for clip in self.clips if not clip.measured))
        if not paths:
            return self
        with ThreadPoolExecutor() as pool:  # opening a file waits for the disk, often across a network
            lengths = dict(zip(paths, pool.map(_length, paths), strict=True))
        measured = [clip if clip.measured else _measure(clip, lengths[clip.path]) for clip in self.clips]
        self._warn_of_lengths(measured)
        return replace(
            self,
            clips=tuple(clip for clip in measured if isinstance(clip, Clip)),
            failures=self.failures + tuple(item for item in measured if isinstance(item, ClipFailure)),
        )

    def _warn_of_lengths(self, measured: Sequence[Clip | ClipFailure]) -> None:
        wrong = [
            (before, after)
            for before, after in zip(self.clips, measured, strict=True)
            if isinstance(after, Clip) and before.duration_s not in (None, after.duration_s)
        ]
        if wrong:
            before, after = wrong[0]
            logger.warning(
                "corpus %s: %d clips are not as long as it says; the lengths of their files are used. The "
                "first is %s: %g s are said, and its file has %.3f s.",
                printable(self.name), len(wrong), printable(before.id), before.duration_s, after.duration_s,
            )  # fmt: skip


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
        corpus = _open_together(names, _home(root) if root is not None else None)
    elif folder is not None:
        corpus = _open_folder(_home(folder))
    else:
        from codecvq.data.manifest import read_manifest

        corpus = read_manifest(_home(cast(str, manifest)))
    corpus = replace(corpus, split_by=split_by, clips=_keep_speakers(corpus, speakers, exclude_speakers))
    _check(corpus)
    return corpus


def _length(path: Path) -> float | AudioError:
    try:
        return duration_s(path)
    except AudioError as error:
        return error
    except OSError as error:
        return AudioError(f"{printable(str(path))} cannot be read ({error.strerror}).")


def _measure(clip: Clip, length: float | AudioError) -> Clip | ClipFailure:
    """The clip with a length that its file, of `length` seconds, bears out."""
    if isinstance(length, AudioError):
        return ClipFailure(clip.id, clip.path, str(length))
    rest_s = length - clip.start_s
    if rest_s <= 0:
        error = f"{printable(str(clip.path))} has no samples from {clip.start_s:g} s on."
        return ClipFailure(clip.id, clip.path, error)
    if clip.duration_s is None:
        return replace(clip, duration_s=rest_s, open_end=True, measured=True)
    if not clip.open_end:
        too_long = clip.ends_early(rest_s)
        return ClipFailure(clip.id, clip.path, too_long) if too_long else replace(clip, measured=True)
    wrong = abs(clip.duration_s - rest_s) > max(TOLD_WRONG_S, TOLD_WRONG * rest_s)
    return replace(clip, duration_s=rest_s if wrong else clip.duration_s, measured=True)


def _home(path: str | os.PathLike[str]) -> Path:
    """The path, with `~` as the home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # ~nosuchuser
        raise CorpusError(f"{path}: {error}. Give the whole path.") from error


def _open_together(names: Sequence[str], root: Path | None) -> Corpus:
    if len(set(names)) < len(names):
        raise CorpusError(f"the corpora {', '.join(names)}: one is named twice. Name each once.")
    corpora = [_open_registered(name, root) for name in names]
    clips = tuple(clip for corpus in corpora for clip in corpus)
    return Corpus("+".join(corpus.name for corpus in corpora), clips)


def _open_registered(name: str, root: Path | None) -> Corpus:
    from codecvq.api.hookspecs import CorpusSpec
    from codecvq.plugins import registry

    offer = registry().find(CorpusSpec, name)
    install = offer.spec.install
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
    if odd := next((clip for clip in clips if not isinstance(clip, Clip)), None):
        raise CorpusError(
            f"corpus {name!r} of {offer.origin} gives {type(odd).__name__} where a Clip is needed."
        )
    if not clips:
        raise CorpusError(f"corpus {name!r} has no clips{f' below {root}' if root else ''}.{how}")
    return Corpus(name, clips)


def _open_folder(folder: Path) -> Corpus:
    name = printable(str(folder))
    if not os.path.isdir(folder):
        raise CorpusError(
            f"the corpus folder {name} {'is a file' if os.path.exists(folder) else 'does not exist'}. "
            "Give a folder of audio files (or a manifest under 'manifest')."
        )
    paths = find_audio(folder)
    if not paths:
        kinds = ", ".join(sorted(AUDIO_SUFFIXES))
        raise CorpusError(
            f"the corpus folder {name} holds no audio. Put files in it with one of these suffixes: {kinds}."
        )
    clips = [Clip(id=path.relative_to(folder).with_suffix("").as_posix(), path=path) for path in paths]
    return Corpus(writable(folder.resolve().name), split_by_content(clips))


def split_by_content(clips: Sequence[Clip]) -> tuple[Clip, ...]:
    """The clips with what is in their files as the key of their splits; with the start too, of a part."""
    paths = list(dict.fromkeys(clip.path for clip in clips))
    with ThreadPoolExecutor() as pool:
        keys = dict(zip(paths, pool.map(_content_key, paths), strict=True))
    return tuple(
        replace(clip, split_key=keys[clip.path] and f"{keys[clip.path]}{clip.part}") for clip in clips
    )


def _content_key(path: Path) -> str:
    try:
        return fingerprint(path)
    except (AudioError, OSError):
        return ""  # it will fail when it is read


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

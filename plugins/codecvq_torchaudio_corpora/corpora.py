"""LibriTTS, LJSpeech and VCTK: downloaded by torchaudio.datasets, read from the unpacked archives.

torchaudio's dataset objects are used for the download only: from version 2.9 on they cannot read audio by
themselves, and these three do not expose file paths. A corpus that is already present is read without
torchaudio (and without torch).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from codecvq import Clip, CorpusError
from codecvq.data import ClipFailure, open_corpus

logger = logging.getLogger("codecvq")

LIBRITTS_SUBSET = "train-clean-100"  # downloaded if no subset is present
#: By the first word of the subset's name; train subsets are split by hash.
LIBRITTS_SPLITS = {"dev": "validation", "test": "test"}
VCTK_MICROPHONE = "mic2"  # as torchaudio chooses; mic1 has low-frequency noise in many recordings


def libritts(root: Path | None = None) -> Iterator[Clip]:
    """Yield every utterance of the subsets below `root`/LibriTTS.

    If there is no folder LibriTTS, downloads train-clean-100 (8 GB). The official dev and test subsets become
    validation and test. Raises CorpusError if the download fails.
    """
    folder = _find_or_download(root, "LibriTTS", _download_libritts, "LibriTTS train-clean-100 (8 GB)")
    for subset in sorted(path for path in folder.iterdir() if path.is_dir()):
        for path in sorted(subset.glob("*/*/*.wav")):
            text = path.with_suffix(".normalized.txt")
            yield Clip(
                id=f"libritts/{path.stem}",
                path=path,
                text=text.read_text(encoding="utf-8").strip() if text.is_file() else "",
                speaker=f"libritts/{path.parent.parent.name}",
                language="en",
                licence="CC-BY-4.0",
                split=LIBRITTS_SPLITS.get(subset.name.partition("-")[0], ""),
                columns={"subset": subset.name},
            )


def ljspeech(root: Path | None = None) -> Iterator[Clip | ClipFailure]:
    """Yield every utterance of `root`/LJSpeech-1.1 with its normalized text; a missing file is a failure."""
    folder = _find_or_download(root, "LJSpeech-1.1", _download_ljspeech, "LJSpeech 1.1 (3 GB)")
    corpus = open_corpus(source=folder, reader="metadata")
    for clip in corpus:
        yield replace(
            clip,
            id=f"ljspeech/{clip.id}",
            speaker="ljspeech/linda_johnson",
            language="en-US",
            licence="public domain",
            columns={},
        )
    yield from corpus.failures


def vctk(root: Path | None = None) -> Iterator[Clip]:
    """Yield every utterance of `root`/VCTK-Corpus-0.92, recorded by its second microphone.

    A few speakers have no text, which is then empty, or no second microphone and so no clips.
    """
    folder = _find_or_download(root, "VCTK-Corpus-0.92", _download_vctk, "VCTK 0.92 (11 GB)")
    for path in sorted((folder / "wav48_silence_trimmed").glob(f"*/*_{VCTK_MICROPHONE}.flac")):
        speaker, name = path.parent.name, path.stem.removesuffix(f"_{VCTK_MICROPHONE}")
        text = folder / "txt" / speaker / f"{name}.txt"
        yield Clip(
            id=f"vctk/{name}",
            path=path,
            text=text.read_text(encoding="utf-8").strip() if text.is_file() else "",
            speaker=f"vctk/{speaker}",
            language="en",
            licence="CC-BY-4.0",
        )


def default_root() -> Path:
    """The folder for corpora if no root is given."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codecvq" / "corpora"


def _find_or_download(root: Path | None, name: str, download: Callable[[Path], object], what: str) -> Path:
    """The corpus's folder: `root` itself, or `root`/name, downloaded if it is missing."""
    root = root or default_root()
    if root.name == name and root.is_dir():
        return root
    if (root / name).is_dir():
        return root / name
    logger.warning("%s is not in %s; downloading it there", what, root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        download(root)
    except (OSError, RuntimeError, ImportError) as error:  # OSError: also URLError; RuntimeError: checksum
        raise CorpusError(
            f"the download of {what} into {root} failed: {type(error).__name__}: {error}."
        ) from error
    return root / name


def _download_libritts(root: Path) -> object:
    from torchaudio.datasets import LIBRITTS

    return LIBRITTS(root, url=LIBRITTS_SUBSET, download=True)


def _download_ljspeech(root: Path) -> object:
    from torchaudio.datasets import LJSPEECH

    return LJSPEECH(root, download=True)


def _download_vctk(root: Path) -> object:
    from torchaudio.datasets import VCTK_092

    return VCTK_092(str(root), mic_id=VCTK_MICROPHONE, download=True)

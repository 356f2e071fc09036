"""Clips, readers (hook `codecvq_readers`), corpora, and training segments.

Exports the names for users and plugin authors. Each is imported on first use, so that importing this package
does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codecvq.audio import Audio, find_audio_files, read_audio
    from codecvq.data.audio_source import AudioFile, AudioSource, LongAudioSource
    from codecvq.data.clip import Clip, ClipFailure
    from codecvq.data.clips import ClipListing, Clips
    from codecvq.data.content_split import split_by_content
    from codecvq.data.corpus import SPLITS, Corpus, Split, SplitBy, open_corpus, split_of
    from codecvq.data.fingerprint import fingerprint
    from codecvq.data.manifest import read_manifest
    from codecvq.data.segments import AugmentConfig, Segments

__all__ = [
    "SPLITS",
    "Audio",
    "AudioFile",
    "AudioSource",
    "AugmentConfig",
    "Clip",
    "ClipFailure",
    "ClipListing",
    "Clips",
    "Corpus",
    "LongAudioSource",
    "Segments",
    "Split",
    "SplitBy",
    "find_audio_files",
    "fingerprint",
    "open_corpus",
    "read_audio",
    "read_manifest",
    "split_by_content",
    "split_of",
]

_MODULES = {
    "codecvq.audio": ("Audio", "find_audio_files", "read_audio"),
    "codecvq.data.audio_source": ("AudioFile", "AudioSource", "LongAudioSource"),
    "codecvq.data.clip": ("Clip", "ClipFailure"),
    "codecvq.data.clips": ("Clips", "ClipListing"),
    "codecvq.data.content_split": ("split_by_content",),
    "codecvq.data.corpus": ("SPLITS", "Corpus", "Split", "SplitBy", "open_corpus", "split_of"),
    "codecvq.data.fingerprint": ("fingerprint",),
    "codecvq.data.manifest": ("read_manifest",),
    "codecvq.data.segments": ("AugmentConfig", "Segments"),
}
_LAZY = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:  # Any: every exported name
    if name not in _LAZY:
        raise AttributeError(f"module 'codecvq.data' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__

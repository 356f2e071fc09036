"""Data: clips, what reads them (hook `codecvq_readers`), corpora, and the segments that training takes.

What is exported here is what users and plugin authors import; it needs no torch, and is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codecvq.audio import Audio, find_audio, read_audio
    from codecvq.data.audio_source import AudioFile, AudioSource
    from codecvq.data.clip import Clip, ClipFailure
    from codecvq.data.clips import Clips, Listing
    from codecvq.data.contents import split_by_content
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
    "Clips",
    "Corpus",
    "Listing",
    "Segments",
    "Split",
    "SplitBy",
    "find_audio",
    "fingerprint",
    "open_corpus",
    "read_audio",
    "read_manifest",
    "split_by_content",
    "split_of",
]

_PLACES = {
    "codecvq.audio": ("Audio", "find_audio", "read_audio"),
    "codecvq.data.audio_source": ("AudioFile", "AudioSource"),
    "codecvq.data.clip": ("Clip", "ClipFailure"),
    "codecvq.data.clips": ("Clips", "Listing"),
    "codecvq.data.contents": ("split_by_content",),
    "codecvq.data.corpus": ("SPLITS", "Corpus", "Split", "SplitBy", "open_corpus", "split_of"),
    "codecvq.data.fingerprint": ("fingerprint",),
    "codecvq.data.manifest": ("read_manifest",),
    "codecvq.data.segments": ("AugmentConfig", "Segments"),
}
_LAZY = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:  # Any: whatever the module holds under that name
    if name not in _LAZY:
        raise AttributeError(f"module 'codecvq.data' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__

"""Splits by file content, for clips whose ids are only paths in a folder."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from codecvq.data.audio_source import AudioSource
from codecvq.data.clip import Clip
from codecvq.errors import AudioError

BLOCK = 1024  # clips per batch of file reads


def split_by_content(clips: Iterable[Clip]) -> Iterator[Clip]:
    """Yield the clips with the fingerprint of their file and their part as `split_key`."""
    iterator = iter(clips)
    with ThreadPoolExecutor() as pool:
        while block := list(itertools.islice(iterator, BLOCK)):
            for clip, key in zip(block, content_keys(block, pool), strict=True):
                yield with_content_key(clip, key)


def content_keys(clips: Iterable[Clip], pool: ThreadPoolExecutor) -> list[str]:
    """Return the fingerprint of each clip's file, 32 hexadecimal digits; "" if it cannot be read."""
    clips = list(clips)
    sources = dict.fromkeys(clip.audio for clip in clips)
    keys = dict(zip(sources, pool.map(_content_key, sources), strict=True))
    return [keys[clip.audio] for clip in clips]


def with_content_key(clip: Clip, key: str) -> Clip:
    """Return the clip with `key`, the fingerprint of its file, and its part as `split_key`."""
    return replace(clip, split_key=f"{key}{clip.part_suffix}") if key else clip


def _content_key(audio: AudioSource) -> str:
    try:
        return audio.fingerprint()
    except (AudioError, OSError):
        return ""  # reading the clip raises the error later

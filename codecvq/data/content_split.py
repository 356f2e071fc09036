"""Clips that are split by what is in their files: their ids are only their place in a folder."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from codecvq.data.audio_source import AudioSource
from codecvq.data.clip import Clip
from codecvq.errors import AudioError

BLOCK = 1024  # clips whose files are read at a time


def split_by_content(clips: Iterable[Clip]) -> Iterator[Clip]:
    """The clips with what is in their files as the key of their splits; with the start too, of a part."""
    iterator = iter(clips)
    with ThreadPoolExecutor() as pool:
        while block := list(itertools.islice(iterator, BLOCK)):
            for clip, key in zip(block, content_keys(block, pool), strict=True):
                yield with_content_key(clip, key)


def content_keys(clips: Iterable[Clip], pool: ThreadPoolExecutor) -> list[str]:
    """The fingerprint of each clip's file, 32 hexadecimal digits; "" where it cannot be read."""
    clips = list(clips)
    sources = dict.fromkeys(clip.audio for clip in clips)
    keys = dict(zip(sources, pool.map(_content_key, sources), strict=True))
    return [keys[clip.audio] for clip in clips]


def with_content_key(clip: Clip, key: str) -> Clip:
    """The clip with its file's fingerprint, and its part, as the key of its split."""
    return replace(clip, split_key=f"{key}{clip.part_suffix}") if key else clip


def _content_key(audio: AudioSource) -> str:
    try:
        return audio.fingerprint()
    except (AudioError, OSError):
        return ""  # it will fail when it is read

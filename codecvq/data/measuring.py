"""Durations of clips, compared with their files."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from codecvq.data.audio_source import AudioSource
from codecvq.data.clip import Clip, ClipFailure
from codecvq.data.clips import Clips, Listing
from codecvq.errors import AudioError
from codecvq.escaping import printable

logger = logging.getLogger("codecvq")

#: Seconds, and share of the file: by more than both, a length that was told is wrong and not just rounded
TOLD_WRONG_S, TOLD_WRONG = 0.5, 0.02
BLOCK = 4096  # clips that are measured at a time


def measured_clips(clips: Clips, corpus: str) -> Listing:
    """The clips with every duration known and compared with the file, and those that cannot be read, or are
    parts that lie behind the end of their file. Logs a warning of durations that are wrong.
    """
    durations_s, usable = clips.durations_s.copy(), np.ones(len(clips), np.bool_)
    todo = np.flatnonzero(~clips.measured)
    failures: list[ClipFailure] = []
    wrong, first_wrong = 0, ""
    with ThreadPoolExecutor() as pool:  # opening a file waits for the disk, often across a network
        for begin in range(0, len(todo), BLOCK):
            for index, before, after in _block(clips, todo[begin : begin + BLOCK].tolist(), pool):
                if isinstance(after, ClipFailure):
                    usable[index] = False
                    failures.append(after)
                    continue
                durations_s[index] = after.duration_s
                if before.duration_s not in (None, after.duration_s):
                    wrong += 1
                    first_wrong = first_wrong or (
                        f"{printable(before.id)}: {before.duration_s:g} s are said, and its file has "
                        f"{after.duration_s:.3f} s"
                    )
    if wrong:
        logger.warning(
            "corpus %s: %d clips are not as long as it says; the lengths of their files are used. The first "
            "is %s.",
            printable(corpus), wrong, first_wrong,
        )  # fmt: skip
    found = clips.with_lengths(durations_s)
    return Listing(found if usable.all() else found.taken(np.flatnonzero(usable)), tuple(failures))


def _block(
    clips: Clips, indices: list[int], pool: ThreadPoolExecutor
) -> list[tuple[int, Clip, Clip | ClipFailure]]:
    """Index, clip and what was measured, of some clips."""
    block = [clips[index] for index in indices]
    sources = dict.fromkeys(clip.audio for clip in block)  # many parts may be of one file
    lengths = dict(zip(sources, pool.map(_length, sources), strict=True))
    return [
        (index, clip, _measure(clip, lengths[clip.audio])) for index, clip in zip(indices, block, strict=True)
    ]


def _length(audio: AudioSource) -> float | AudioError | OSError:
    try:
        return audio.length_s()
    except (AudioError, OSError) as error:
        return error


def _measure(clip: Clip, length: float | AudioError | OSError) -> Clip | ClipFailure:
    """The clip with a length that its file, of `length` seconds, bears out."""
    if isinstance(length, OSError):
        why = f"{printable(str(clip.path))} cannot be read ({length.strerror})."
        return ClipFailure(clip.id, clip.path, why)
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

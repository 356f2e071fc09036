"""Durations of clips, compared with their files."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from codecvq.data.audio_source import AudioSource
from codecvq.data.clip import Clip, ClipFailure
from codecvq.data.clips import ClipListing, Clips
from codecvq.errors import AudioError
from codecvq.escaping import printable

logger = logging.getLogger("codecvq")

#: Seconds, and share of the file: by more than both, a length that was told is wrong and not just rounded
TOLERANCE_S, TOLERANCE = 0.5, 0.02
BLOCK = 4096  # clips that are measured at a time


def measure_clips(clips: Clips, corpus: str) -> ClipListing:
    """The clips with every duration known and compared with the file, and those that cannot be read, or are
    parts that lie behind the end of their file. Logs a warning of durations that are wrong.
    """
    durations_s, usable = clips.durations_s.copy(), np.ones(len(clips), np.bool_)
    unmeasured = np.flatnonzero(~clips.measured)
    failures: list[ClipFailure] = []
    wrong, first_wrong = 0, ""
    with ThreadPoolExecutor() as pool:  # opening a file waits for the disk, often across a network
        for begin in range(0, len(unmeasured), BLOCK):
            for index, before, after in _block(clips, unmeasured[begin : begin + BLOCK].tolist(), pool):
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
    measured = clips.with_durations(durations_s)
    return ClipListing(measured if usable.all() else measured.select(np.flatnonzero(usable)), tuple(failures))


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
        error = f"{printable(str(clip.path))} cannot be read ({length.strerror})."
        return ClipFailure(clip.id, clip.path, error)
    if isinstance(length, AudioError):
        return ClipFailure(clip.id, clip.path, str(length))
    available_s = length - clip.start_s
    if available_s <= 0:
        error = f"{printable(str(clip.path))} has no samples from {clip.start_s:g} s on."
        return ClipFailure(clip.id, clip.path, error)
    if clip.duration_s is None:
        return replace(clip, duration_s=available_s, open_end=True, measured=True)
    if not clip.open_end:
        error = clip.duration_error(available_s)
        return ClipFailure(clip.id, clip.path, error) if error else replace(clip, measured=True)
    wrong = abs(clip.duration_s - available_s) > max(TOLERANCE_S, TOLERANCE * available_s)
    return replace(clip, duration_s=available_s if wrong else clip.duration_s, measured=True)

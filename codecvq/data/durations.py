"""Measuring the durations of clips in their files."""

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

#: A stated duration is wrong, not just rounded, if it differs by more than both: seconds,
#: and a fraction of the measured duration
TOLERANCE_S, TOLERANCE = 0.5, 0.02
BLOCK = 4096  # clips measured at a time


def measure_clips(clips: Clips, corpus: str) -> ClipListing:
    """Measure all durations that were not measured yet, and return the usable clips.

    Clips that cannot be read and parts after the end of their file become failures. Logs a warning if stated
    durations are wrong.
    """
    durations_s, usable = clips.durations_s.copy(), np.ones(len(clips), np.bool_)
    unmeasured = np.flatnonzero(~clips.measured)
    failures: list[ClipFailure] = []
    wrong, first_wrong = 0, ""
    with ThreadPoolExecutor() as pool:  # opening files waits for the disk or the network
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
                        f"{printable(before.id)}: its stated duration is {before.duration_s:g} s, but its "
                        f"file has {after.duration_s:.3f} s"
                    )
    if wrong:
        logger.warning(
            "corpus %s: %d clips have wrong durations; the durations of their files are used. The first is "
            "%s.",
            printable(corpus), wrong, first_wrong,
        )  # fmt: skip
    measured = clips.with_durations(durations_s)
    return ClipListing(measured if usable.all() else measured.select(np.flatnonzero(usable)), tuple(failures))


def _block(
    clips: Clips, indices: list[int], pool: ThreadPoolExecutor
) -> list[tuple[int, Clip, Clip | ClipFailure]]:
    """Measure some clips; returns index, clip, and the measured clip or failure of each."""
    block = [clips[index] for index in indices]
    sources = dict.fromkeys(clip.audio for clip in block)  # several parts may share a file
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
    """Return the clip with its measured duration, or a failure; `length` is the duration of its file."""
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

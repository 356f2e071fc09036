"""Parts of clips that become rows, read ahead and in batches of similar lengths.

A short clip is one part with its samples. A long clip is cut at silences into pieces, or it is one part
without samples, which is encoded while it is read. So the memory does not depend on the length of clips.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from codecvq.audio import cut_at_silences
from codecvq.errors import TokensError

if TYPE_CHECKING:
    from codecvq.data.corpus import Clip

READ_THREADS = 4  # decoding of audio releases the GIL
READ_AHEAD = 32  # clips


@dataclass(frozen=True)
class Part:
    """A clip or a piece of one, at the sample rate of the codec."""

    clip: Clip
    samples: npt.NDArray[np.float32] | None  # [S]; None: the clip is too long to be read at once
    piece: int = 0  # from 1; 0: the whole clip
    first_sample: int = 0  # in the clip

    @property
    def id(self) -> str:
        """Id of the row: that of the clip, with the number of the piece, as in `ID#0001`."""
        return f"{self.clip.id}#{self.piece:04d}" if self.piece else self.clip.id


def batches(
    clips: Sequence[Clip],
    sample_rate: int,
    batch_seconds: float,
    max_seconds: float | None,
    failures: dict[str, Exception],
) -> Iterator[list[Part]]:
    """Yield parts in batches, so that `count * longest` stays within `batch_seconds`.

    With `max_seconds`, longer clips are cut into pieces of at most this length. Other clips above
    `batch_seconds` are batches of their own, without samples. Clips that cannot be read are added to
    `failures`, perhaps after some of their pieces. The longest clips come first, so that a batch that exceeds
    the memory fails at the start and not after hours.
    """
    batch: list[Part] = []
    longest = 0
    for part in _parts(clips, sample_rate, batch_seconds, max_seconds, failures):
        if part.samples is None:
            yield [part]
            continue
        if batch and max(longest, part.samples.size) * (len(batch) + 1) > batch_seconds * sample_rate:
            yield batch
            batch, longest = [], 0
        batch.append(part)
        longest = max(longest, part.samples.size)
    if batch:
        yield batch


def _parts(
    clips: Sequence[Clip],
    sample_rate: int,
    batch_seconds: float,
    max_seconds: float | None,
    failures: dict[str, Exception],
) -> Iterator[Part]:
    longest_s = batch_seconds if max_seconds is None else max_seconds
    by_length = sorted(clips, key=lambda clip: -(clip.duration_s or 0.0))
    for clip, result in _read_ahead(by_length, sample_rate, longest_s):
        if isinstance(result, Exception):
            failures[clip.id] = result
        elif result is not None or max_seconds is None:
            yield Part(clip, result)
        else:
            try:
                yield from _pieces(clip, sample_rate, max_seconds)
            except Exception as error:  # untrusted files can cause any error
                failures[clip.id] = error


def _pieces(clip: Clip, sample_rate: int, max_seconds: float) -> Iterator[Part]:
    first = 0
    pieces = cut_at_silences(clip.read_blocks(sample_rate), sample_rate, max_seconds)
    for number, samples in enumerate(pieces, start=1):
        yield Part(clip, samples, number, first)
        first += samples.size


def _read_ahead(
    clips: Sequence[Clip], sample_rate: int, longest_s: float
) -> Iterator[tuple[Clip, npt.NDArray[np.float32] | Exception | None]]:
    """Yield each clip with its samples or the exception of reading, in order; None for longer clips.

    Threads read up to `READ_AHEAD` clips while the codec encodes.
    """
    waiting: deque[tuple[Clip, Future[npt.NDArray[np.float32] | None]]] = deque()
    with ThreadPoolExecutor(READ_THREADS, thread_name_prefix="codecvq-read") as pool:
        try:
            for clip in clips:
                waiting.append((clip, pool.submit(_read, clip, sample_rate, longest_s)))
                if len(waiting) >= READ_AHEAD:
                    yield _result(*waiting.popleft())
            while waiting:
                yield _result(*waiting.popleft())
        finally:
            for _, future in waiting:
                future.cancel()


def _read(clip: Clip, sample_rate: int, longest_s: float) -> npt.NDArray[np.float32] | None:
    """Return the samples `[S]` of a clip, or None if it is longer than `longest_s`."""
    samples = clip.read_short(sample_rate, longest_s)
    if samples is not None and not samples.size:
        raise TokensError("it has no samples")
    return samples


def _result(
    clip: Clip, future: Future[npt.NDArray[np.float32] | None]
) -> tuple[Clip, npt.NDArray[np.float32] | Exception | None]:
    try:
        return clip, future.result()
    except Exception as error:  # untrusted files can cause any error; record it and continue
        return clip, error

"""Silent frames of a chunk: stored as lengths of alternating runs; their codes are not stored."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from codecvq.bitstream.source import Source, malformed, varint

Silent = npt.NDArray[np.bool_]


def whole_blocks(silent: Silent, strides: Sequence[int]) -> Silent:
    """Return `[C, t]`, True where all frames of a block are silent. A block spans all strides once."""
    block, frames = math.lcm(*strides), silent.shape[1]
    if block == 1 or not silent.any():
        return silent
    starts = np.arange(0, frames, block)
    whole = np.logical_and.reduceat(silent, starts, axis=1)
    return np.repeat(whole, np.diff([*starts, frames]), axis=1)


def write_silence(silent: Silent) -> bytes:
    """Return the runs of one channel `[t]`: the number of changes, then the lengths of all runs but the last.

    The first run is of coded frames; its length is 0 if the first frame is silent.
    """
    changes = np.flatnonzero(np.diff(silent, prepend=False))
    lengths = np.diff(changes, prepend=0)
    return b"".join(map(varint, (len(changes), *lengths.tolist())))


def read_silence(source: Source, frames: int, block: int) -> Silent:
    """Return the silent frames `[t]` of one channel. Raises BitstreamError for invalid runs."""
    lengths, at = [], 0
    for change in range(source.number("its silence")):
        lengths.append(length := source.number("its silence"))
        at += length
        if (length == 0 and change > 0) or at >= frames or at % block:
            raise malformed(f"silence that changes at frame {at} of {frames} with blocks of {block}")
    return np.repeat(np.arange(len(lengths) + 1) % 2 == 1, [*lengths, frames - at])

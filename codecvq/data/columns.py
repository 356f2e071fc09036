"""Values that a corpus needs for all clips at once, as arrays: 23 bytes per clip."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codecvq.data.clip import Clip
from codecvq.data.shared_array import SharedArray
from codecvq.data.splits import split_code, split_of


@dataclass(frozen=True, eq=False)
class Columns:
    """Values of M clips, one array `[M]` each."""

    id_hash: SharedArray  # uint64
    explicit_split: SharedArray  # uint8, `split_code` of the split that a clip specifies
    key_split: SharedArray  # uint8, `split_code` of the split by the hash of the clip's `split_key` or id
    speaker: SharedArray  # int32, an index into `speakers`
    duration_s: SharedArray  # float64, NaN if unknown
    measured: SharedArray  # bool: whether the duration was compared with the file
    speakers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.id_hash.values)


class ColumnsBuilder:
    """Builds `Columns` clip by clip."""

    def __init__(self) -> None:
        self._id_hash, self._duration_s, self._speaker = array("Q"), array("d"), array("i")
        self._explicit_split, self._key_split, self._measured = array("B"), array("B"), array("B")
        self._speakers: dict[str, int] = {}

    def add(self, clip: Clip) -> None:
        """Append the values of a clip."""
        self._id_hash.append(id_hash(clip.id))
        self._explicit_split.append(split_code(clip.split))
        self._key_split.append(split_code(split_of(clip.split_key or clip.id)))
        self._speaker.append(self._speakers.setdefault(clip.speaker, len(self._speakers)))
        self._duration_s.append(math.nan if clip.duration_s is None else clip.duration_s)
        self._measured.append(clip.measured)

    def columns(self) -> Columns:
        """Return the columns of the added clips. Do not add clips afterwards: the memory is shared."""
        return Columns(
            to_shared_array(self._id_hash, np.uint64),
            to_shared_array(self._explicit_split, np.uint8),
            to_shared_array(self._key_split, np.uint8),
            to_shared_array(self._speaker, np.int32),
            to_shared_array(self._duration_s, np.float64),
            to_shared_array(self._measured, np.bool_),
            tuple(self._speakers),
        )


def build_columns(clips: Iterable[Clip]) -> Columns:
    """Build the columns of clips, reading each clip once."""
    builder = ColumnsBuilder()
    for clip in clips:
        builder.add(clip)
    return builder.columns()


def id_hash(text: str) -> int:
    """64-bit hash of an id, equal in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def to_shared_array(values: array[int] | array[float], dtype: npt.DTypeLike) -> SharedArray:
    """Wrap the numbers in a NumPy array that shares their memory."""
    return SharedArray(np.frombuffer(values, dtype=dtype) if len(values) else np.empty(0, dtype=dtype))

"""What a corpus needs to know of all clips at once, in arrays: 24 bytes a clip."""

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
    """Facts about M clips, an array `[M]` each."""

    id_hash: SharedArray  # uint64
    explicit_split: SharedArray  # uint8, `split_code` of the split that a clip states
    key_split: SharedArray  # uint8, `split_code` of the split that the hash of its key or id gives
    speaker: SharedArray  # int32, an index in `speakers`
    duration_s: SharedArray  # float64, NaN where it is not known
    measured: SharedArray  # bool: whether the duration has been compared with the file
    speakers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.id_hash.values)


class ColumnsBuilder:
    """Columns of clips that are added one by one."""

    def __init__(self) -> None:
        self._id_hash, self._duration_s, self._speaker = array("Q"), array("d"), array("i")
        self._explicit_split, self._key_split, self._measured = array("B"), array("B"), array("B")
        self._speakers: dict[str, int] = {}

    def add(self, clip: Clip) -> None:
        """Note the facts about a clip."""
        self._id_hash.append(id_hash(clip.id))
        self._explicit_split.append(split_code(clip.split))
        self._key_split.append(split_code(split_of(clip.split_key or clip.id)))
        self._speaker.append(self._speakers.setdefault(clip.speaker, len(self._speakers)))
        self._duration_s.append(math.nan if clip.duration_s is None else clip.duration_s)
        self._measured.append(clip.measured)

    def columns(self) -> Columns:
        """The columns of the clips that were added. Nothing may be added after."""
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
    """The columns of clips, each of which is looked at once."""
    builder = ColumnsBuilder()
    for clip in clips:
        builder.add(clip)
    return builder.columns()


def id_hash(text: str) -> int:
    """64 bits that tell an id from others, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def to_shared_array(values: array[int] | array[float], dtype: npt.DTypeLike) -> SharedArray:
    """The numbers as numpy has them, in the same memory."""
    return SharedArray(np.frombuffer(values, dtype=dtype) if len(values) else np.empty(0, dtype=dtype))

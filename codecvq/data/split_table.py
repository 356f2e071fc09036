"""`SplitTable`: texts and their splits, nine bytes each whatever their length."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from codecvq.data.columns import id_hash, to_shared_array
from codecvq.data.splits import NONE, SPLITS, Split, split_code


class SplitTable:
    """The split of each text, by 64 bits of a hash of it. Of a text that is in several, "train" counts before
    "validation", and that before "test".
    """

    def __init__(self, hashes: npt.NDArray[np.uint64], codes: npt.NDArray[np.uint8]) -> None:
        order = np.lexsort((codes, hashes))
        hashes = hashes[order]
        first = np.ones(len(hashes), np.bool_)
        first[1:] = hashes[1:] != hashes[:-1]
        self._hashes, self._codes = hashes[first], codes[order][first]

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> SplitTable:
        """A table of texts without splits."""
        hashes = np.fromiter(map(id_hash, texts), np.uint64)
        return cls(hashes, np.full(len(hashes), NONE, np.uint8))

    def __len__(self) -> int:
        return len(self._hashes)

    def __eq__(self, other: object) -> bool:
        """Whether two tables have the same texts."""
        return isinstance(other, SplitTable) and np.array_equal(self._hashes, other._hashes)

    __hash__ = None  # type: ignore[assignment]

    def get(self, text: str) -> Split | None:
        """The split of a text; None for one that is not in the table."""
        code = int(self.codes(np.array([id_hash(text)], np.uint64))[0])
        return None if code == NONE else SPLITS[code - 1]

    def codes(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
        """The `split_code` of each text, by its `id_hash`; `NONE` for one that is not in the table."""
        if not len(self):
            return np.full(len(hashes), NONE, np.uint8)
        indices = np.searchsorted(self._hashes, hashes).clip(max=len(self) - 1)
        return np.where(self._hashes[indices] == hashes, self._codes[indices], NONE).astype(np.uint8)

    def missing_in(self, other: SplitTable) -> int:
        """How many of the texts the other table does not have."""
        return int(np.isin(self._hashes, other._hashes, invert=True).sum())


class SplitTableBuilder:
    """A table of texts that are added one by one."""

    def __init__(self) -> None:
        self._hashes, self._codes = array("Q"), array("B")

    def add(self, text: str, split: Split) -> None:
        """Note the split of a text."""
        self._hashes.append(id_hash(text))
        self._codes.append(split_code(split))

    def table(self) -> SplitTable:
        """The table of what was added."""
        hashes: npt.NDArray[Any] = to_shared_array(self._hashes, np.uint64).values
        return SplitTable(hashes, to_shared_array(self._codes, np.uint8).values)

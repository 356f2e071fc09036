"""`SplitTable`: maps texts to splits with nine bytes per text."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from codecvq.data.columns import id_hash, to_shared_array
from codecvq.data.splits import NONE, SPLITS, Split, split_code


class SplitTable:
    """Maps 64-bit hashes of texts to splits.

    If a text is in several splits, "train" takes precedence over "validation", and "validation" over "test".
    """

    def __init__(self, hashes: npt.NDArray[np.uint64], codes: npt.NDArray[np.uint8]) -> None:
        order = np.lexsort((codes, hashes))
        hashes = hashes[order]
        first = np.ones(len(hashes), np.bool_)
        first[1:] = hashes[1:] != hashes[:-1]
        self._hashes, self._codes = hashes[first], codes[order][first]

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> SplitTable:
        """Create a table of texts without splits."""
        hashes = np.fromiter(map(id_hash, texts), np.uint64)
        return cls(hashes, np.full(len(hashes), NONE, np.uint8))

    def __len__(self) -> int:
        return len(self._hashes)

    def __eq__(self, other: object) -> bool:
        """Whether two tables have the same texts, whatever their splits."""
        return isinstance(other, SplitTable) and np.array_equal(self._hashes, other._hashes)

    __hash__ = None  # type: ignore[assignment]

    def get(self, text: str) -> Split | None:
        """Return the split of a text; None if it is not in the table."""
        code = int(self.codes(np.array([id_hash(text)], np.uint64))[0])
        return None if code == NONE else SPLITS[code - 1]

    def codes(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
        """Return the `split_code` for each `id_hash`; `NONE` if it is not in the table."""
        if not len(self):
            return np.full(len(hashes), NONE, np.uint8)
        indices = np.searchsorted(self._hashes, hashes).clip(max=len(self) - 1)
        return np.where(self._hashes[indices] == hashes, self._codes[indices], NONE).astype(np.uint8)

    def missing_in(self, other: SplitTable) -> int:
        """Return the number of texts that are not in `other`."""
        return int(np.isin(self._hashes, other._hashes, invert=True).sum())


class SplitTableBuilder:
    """Builds a `SplitTable` text by text."""

    def __init__(self) -> None:
        self._hashes, self._codes = array("Q"), array("B")

    def add(self, text: str, split: Split) -> None:
        """Add a text with its split."""
        self._hashes.append(id_hash(text))
        self._codes.append(split_code(split))

    def table(self) -> SplitTable:
        """Return the table of the added texts."""
        hashes: npt.NDArray[Any] = to_shared_array(self._hashes, np.uint64).values
        return SplitTable(hashes, to_shared_array(self._codes, np.uint8).values)

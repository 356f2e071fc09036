"""Assigning clips or speakers to the splits by a hash that is the same in all processes."""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

Split = Literal["train", "validation", "test"]
SplitBy = Literal["clip", "speaker"]
SPLITS: tuple[Split, ...] = get_args(Split)
TEST_SHARE, VALIDATION_SHARE = 0.05, 0.05

#: Codes of splits in arrays: 0 for none, 1 + index in `SPLITS`, `OTHER` for an unknown name.
NONE, OTHER = 0, 255
_CODES: dict[str, int] = {"": NONE, **{split: code for code, split in enumerate(SPLITS, start=1)}}


def split_of(key: str) -> Split:
    """Return the split of an id or speaker by its hash: 5 % "test", 5 % "validation", the rest "train"."""
    fraction = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if fraction < TEST_SHARE:
        return "test"
    return "validation" if fraction < TEST_SHARE + VALIDATION_SHARE else "train"


def split_code(split: str) -> int:
    """Return the code of a split in arrays."""
    return _CODES.get(split, OTHER)

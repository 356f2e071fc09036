"""Which clips are for training, validation and test: by a stable hash of what names a clip."""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

Split = Literal["train", "validation", "test"]
SplitBy = Literal["clip", "speaker"]
SPLITS: tuple[Split, ...] = get_args(Split)
TEST_SHARE, VALIDATION_SHARE = 0.05, 0.05

#: Splits as arrays hold them: 0 for none, 1 + the place in `SPLITS`, `OTHER` for another word.
NONE, OTHER = 0, 255
_CODES: dict[str, int] = {"": NONE, **{split: code for code, split in enumerate(SPLITS, start=1)}}


def split_of(key: str) -> Split:
    """The split that a hash gives to an id or speaker: 5 % "test", 5 % "validation", the rest "train"."""
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if share < TEST_SHARE:
        return "test"
    return "validation" if share < TEST_SHARE + VALIDATION_SHARE else "train"


def split_code(split: str) -> int:
    """The number of a split in arrays."""
    return _CODES.get(split, OTHER)

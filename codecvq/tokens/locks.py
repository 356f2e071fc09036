"""File locks for processes that share the work on one dataset folder.

Each process locks a file for its part (`shard=(i, n)`) while it works. The lock files are hidden and remain
in the folder.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from codecvq.errors import FolderInUse
from codecvq.lock import locked

LOCK_NAME = re.compile(r"\.lock-(?P<index>[0-9]{1,9})-of-(?P<count>[1-9][0-9]{0,8})")
BEGIN_TIMEOUT_S = 30.0  # how long a process waits for the initialization by others

Result = TypeVar("Result")


@contextmanager
def locked_part(folder: Path, index: int, count: int, initialize: Callable[[], Result]) -> Iterator[Result]:
    """Lock every `count`-th shard, starting at `index`, for the duration of the block.

    Yields the result of `initialize`, which only one process calls at a time. Raises FolderInUse if another
    process has locked a part with some of the same shards.
    """
    own_lock = folder / f".lock-{index}-of-{count}"
    with locked(own_lock, "dataset"):
        for other in folder.glob(".lock-*"):
            name = LOCK_NAME.fullmatch(other.name)
            if name and other != own_lock and _overlap(index, count, int(name["index"]), int(name["count"])):
                with locked(other, "dataset"):
                    pass
        yield _call_exclusively(folder / ".lock-begin", initialize)


def _overlap(index: int, count: int, other_index: int, other_count: int) -> bool:
    """Return whether some number is both `index` modulo `count` and `other_index` modulo `other_count`."""
    return (index - other_index) % math.gcd(count, other_count) == 0


def _call_exclusively(path: Path, initialize: Callable[[], Result]) -> Result:
    deadline = time.monotonic() + BEGIN_TIMEOUT_S
    while True:
        try:
            with locked(path, "dataset"):
                return initialize()
        except FolderInUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)

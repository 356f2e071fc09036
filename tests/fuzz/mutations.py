"""Seeded mutations of bytes and of JSON trees."""

from __future__ import annotations

import copy
import random
from typing import Any

DEEP: Any = 0
for _ in range(60):
    DEEP = [DEEP]

HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 7, 1.5, -0.0, 1e308, float("inf"), float("nan"), 10**6, 10**9,
    2**31, 2**62, 2**63, 10**30, 10**400, -(10**9), "", "x", "nan", "../../x", "/etc/passwd", "\0", "\ud800",
    "a" * 10_000, "os:system", "residual_" * 50 + "fsq", [], [None], [0], [-1], [10**9] * 3,
    list(range(1000)), [[]], {}, {"name": "fsq"}, {"name": None}, {"": {}}, {"a": {"b": []}}, DEEP,
    "spectral", "seanet", "fsq", "lfq", "vq", "simvq",
]  # fmt: skip


def mutated_tree(tree: Any, rng: random.Random, changes: int = 1) -> Any:
    """A copy of a JSON tree in which a few values are replaced, removed, repeated or exchanged."""
    tree = copy.deepcopy(tree)
    for _ in range(changes):
        parent, key = rng.choice(list(_places(tree)))
        kind = rng.random()
        if kind < 0.6:
            parent[key] = copy.deepcopy(rng.choice(HOSTILE))
        elif kind < 0.75:
            del parent[key]
        elif kind < 0.9:
            other, name = rng.choice(list(_places(tree)) or [(parent, key)])
            parent[key] = copy.deepcopy(other[name])
        elif isinstance(parent, dict):
            parent[f"{key}_"] = copy.deepcopy(rng.choice(HOSTILE))
        else:
            parent += copy.deepcopy(parent)
        if not list(_places(tree)):
            break
    return tree


def mutated_bytes(data: bytes, rng: random.Random, changes: int = 1) -> bytes:
    """A copy of `data` with flipped bits, removed, repeated or overwritten parts, or a missing end."""
    out = bytearray(data)
    for _ in range(changes):
        at, length = rng.randrange(len(out) + 1), rng.choice([1, 1, 2, 4, 8, 64, 1000])
        kind = rng.randrange(6)
        if kind <= 1 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            out[at : at + length] = rng.randbytes(length)
        elif kind == 3:
            del out[at : at + length]
        elif kind == 4:
            out[at:at] = out[at : at + length]
        else:
            out[at : at + length] = bytes([rng.choice([0, 0xFF, 0x7F, 0x80])]) * length
        if rng.random() < 0.05:
            del out[rng.randrange(len(out) + 1) :]
    return bytes(out)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """All parents and keys of a tree."""
    found: list[tuple[Any, Any]] = []
    level = [tree]
    while level:
        parent = level.pop()
        keys = (
            list(parent)
            if isinstance(parent, dict)
            else range(len(parent))
            if isinstance(parent, list)
            else []
        )
        for key in keys:
            found.append((parent, key))
            level.append(parent[key])
    return found

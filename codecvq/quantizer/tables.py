"""Digits of codes, and the learned code tables of compositions, joined from their members."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from codecvq.api.code_tables import MAX_RADIX, CodeTables

if TYPE_CHECKING:
    from codecvq.quantizer.author import Quantizer

DIGIT = 64  # radix of the lower digits of codes whose codebook is too large for one table


def join_tables(members: Iterable[Quantizer]) -> CodeTables | None:
    """Join the tables of the members' codebooks, in order; None if no member has tables.

    A member without tables gets uniform ones. Raises OptionError if the `step` of the members differs.
    """
    tables_by_member = [(member, member.code_tables()) for member in members]
    steps = [tables.step for _, tables in tables_by_member if tables is not None]
    if not steps:
        return None
    parts = []
    for member, tables in tables_by_member:
        even = (
            CodeTables.uniform((size,), levels=size_levels(size), step=steps[0])
            for size in member.codebook_sizes
        )
        parts += list(even) if tables is None else [tables]
    return CodeTables.join(parts)


def size_levels(size: int) -> tuple[int, ...]:
    """Return the radices of the digits of codes below `size`: one digit if tables can have as many values."""
    levels: list[int] = []
    while size > MAX_RADIX:
        levels.append(DIGIT)
        size = -(-size // DIGIT)
    return (*levels, size)

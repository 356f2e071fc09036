"""How much work the codes of a file are, known from its header alone."""

from __future__ import annotations

from itertools import groupby

from codecvq.api.code_tables import CodeTables
from codecvq.bitstream.layout import Layout
from codecvq.bitstream.model import FOLLOWED_ALPHABET, LARGEST_ALPHABET, parts, planes
from codecvq.codec.blocks import block_count

# Measured, in steps of about 10 ns on one core; memory stays below 1 byte for each 8 steps.
STEPS_OF_A_CODE = 64  # or of a counter: 8 bytes of memory
STEPS_OF_A_DIGIT = 8
STEPS_OF_A_CALL = 3000  # of the range coder, at least one for each frame
STEPS_OF_A_PART = 20  # for each frame, coded there or not, where blocks or depths differ
COPIES = 4  # of the codes, where blocks or depths differ


def steps(layout: Layout, whole: int | None, with_depths: bool = False) -> int:
    """Steps that `entropy_decode` takes with `whole`, or `unpack_codes` where that is None; `with_depths`
    those of the depths too.
    """
    found = _cells(layout, with_depths)
    if with_depths:
        found += steps(layout.of_depths, None if whole is None else LARGEST_ALPHABET)
    if whole is None:
        return found
    modelled = [plane for plane in planes(layout.sizes, whole) if not plane.raw]
    strides = layout.strides
    for stride, group in groupby(
        sorted(modelled, key=lambda plane: strides[plane.codebook]), key=lambda plane: strides[plane.codebook]
    ):
        radices = [plane.radix for plane in group]
        found += STEPS_OF_A_CODE * sum(
            radix + (radix**2 if radix <= FOLLOWED_ALPHABET else 0) for radix in radices
        )
        for of in parts(radices):
            each = STEPS_OF_A_CALL + (of.stop - of.start) * (STEPS_OF_A_DIGIT + max(radices[of]))
            found += each * block_count(layout.frames, stride)
            found += 0 if layout.is_full and not with_depths else STEPS_OF_A_PART * layout.frames
    return found


def learned_steps(layout: Layout, tables: CodeTables, with_depths: bool) -> int:
    """Steps that `learned_decode` takes at most, and those of the depths."""
    own = [symbol for symbol in tables.symbols if symbol.codebook < len(layout.sizes)]
    calls = sum(
        block_count(layout.frames, layout.strides[symbol.codebook]) * (2 * STEPS_OF_A_CALL + symbol.radix)
        for symbol in own
    )
    depths = steps(layout.of_depths, LARGEST_ALPHABET) if with_depths else 0
    return _cells(layout, with_depths) + STEPS_OF_A_CODE * tables.entries + calls + depths


def _cells(layout: Layout, with_depths: bool) -> int:
    copies = 1 if layout.is_full and not with_depths else COPIES
    return STEPS_OF_A_CODE * copies * len(layout.sizes) * layout.frames

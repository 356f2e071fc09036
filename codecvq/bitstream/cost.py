"""How much work the codes of a file are, known from its header alone."""

from __future__ import annotations

from itertools import groupby

from codecvq.api.code_tables import CodeTables
from codecvq.bitstream.layout import Layout
from codecvq.bitstream.model import MAX_ALPHABET, TRANSITION_ALPHABET, plane_slices, planes
from codecvq.codec.blocks import block_count

# Measured, in steps of about 10 ns on one core; memory stays below 1 byte for each 8 steps.
STEPS_PER_CODE = 64  # or of a counter: 8 bytes of memory
STEPS_PER_DIGIT = 8
STEPS_PER_CALL = 3000  # of the range coder, at least one for each frame
STEPS_PER_SLICE = 20  # for each frame, coded there or not, where blocks or depths differ
COPIES = 4  # of the codes, where blocks or depths differ


def decoding_steps(layout: Layout, split_above: int | None, with_depths: bool = False) -> int:
    """Steps that `entropy_decode` takes with `split_above`, or `unpack_codes` where that is None;
    `with_depths` those of the depths too.
    """
    total = _cell_steps(layout, with_depths)
    if with_depths:
        total += decoding_steps(layout.depths_layout, None if split_above is None else MAX_ALPHABET)
    if split_above is None:
        return total
    modeled = [plane for plane in planes(layout.sizes, split_above) if not plane.raw]
    strides = layout.strides
    for stride, group in groupby(
        sorted(modeled, key=lambda plane: strides[plane.codebook]), key=lambda plane: strides[plane.codebook]
    ):
        radices = [plane.radix for plane in group]
        total += STEPS_PER_CODE * sum(
            radix + (radix**2 if radix <= TRANSITION_ALPHABET else 0) for radix in radices
        )
        for span in plane_slices(radices):
            each = STEPS_PER_CALL + (span.stop - span.start) * (STEPS_PER_DIGIT + max(radices[span]))
            total += each * block_count(layout.frames, stride)
            total += 0 if layout.is_full and not with_depths else STEPS_PER_SLICE * layout.frames
    return total


def learned_decoding_steps(layout: Layout, tables: CodeTables, with_depths: bool) -> int:
    """Steps that `learned_decode` takes at most, and those of the depths."""
    symbols = [symbol for symbol in tables.symbols if symbol.codebook < len(layout.sizes)]
    calls = sum(
        block_count(layout.frames, layout.strides[symbol.codebook]) * (2 * STEPS_PER_CALL + symbol.radix)
        for symbol in symbols
    )
    depths = decoding_steps(layout.depths_layout, MAX_ALPHABET) if with_depths else 0
    return _cell_steps(layout, with_depths) + STEPS_PER_CODE * tables.entries + calls + depths


def _cell_steps(layout: Layout, with_depths: bool) -> int:
    copies = 1 if layout.is_full and not with_depths else COPIES
    return STEPS_PER_CODE * copies * len(layout.sizes) * layout.frames

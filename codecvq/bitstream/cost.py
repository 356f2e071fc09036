"""Cost of decoding a `.cvq` file, estimated from its header before the payload is decoded.

The unit of cost is a step: about 10 ns on one core, and less than 1 byte of memory per 8 steps (measured).
"""

from __future__ import annotations

from itertools import groupby

from codecvq.api.code_tables import CodeTables
from codecvq.bitstream.layout import Layout
from codecvq.bitstream.model import MAX_ALPHABET, TRANSITION_ALPHABET, plane_slices, planes
from codecvq.codec.blocks import block_count

STEPS_PER_CODE = 64  # also per counter; each takes 8 bytes of memory
STEPS_PER_DIGIT = 8
STEPS_PER_CALL = 3000  # one call of the range coder; there is at least one per frame
STEPS_PER_SLICE = 20  # per frame, coded or not, if strides or depths vary
COPIES = 4  # number of copies of the codes if strides or depths vary


def decoding_steps(layout: Layout, split_above: int | None, with_depths: bool = False) -> int:
    """Return the steps that `entropy_decode` takes.

    `split_above` is the largest size of a codebook that is not split into digits. With
    None, returns the steps of `unpack_codes`. `with_depths` adds the steps that decode the
    depths.
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
            slice_steps = STEPS_PER_CALL + (span.stop - span.start) * (STEPS_PER_DIGIT + max(radices[span]))
            total += slice_steps * block_count(layout.frames, stride)
            total += 0 if layout.is_full and not with_depths else STEPS_PER_SLICE * layout.frames
    return total


def learned_decoding_steps(layout: Layout, tables: CodeTables, with_depths: bool) -> int:
    """Return the maximum number of steps of `learned_decode`, including the depths if there are any."""
    symbols = [symbol for symbol in tables.symbols if symbol.codebook < len(layout.sizes)]
    calls = sum(
        block_count(layout.frames, layout.strides[symbol.codebook]) * (2 * STEPS_PER_CALL + symbol.radix)
        for symbol in symbols
    )
    depths = decoding_steps(layout.depths_layout, MAX_ALPHABET) if with_depths else 0
    return _cell_steps(layout, with_depths) + STEPS_PER_CODE * tables.entries + calls + depths


def _cell_steps(layout: Layout, with_depths: bool) -> int:
    """Return the steps that handle the arrays of codes."""
    copies = 1 if layout.is_full and not with_depths else COPIES
    return STEPS_PER_CODE * copies * len(layout.sizes) * layout.frames

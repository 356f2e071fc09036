"""How much work the codes of a file are, known from its header alone."""

from __future__ import annotations

from collections.abc import Sequence

from codecvq.bitstream.model import FOLLOWED_ALPHABET, parts, planes

# Measured, in steps of about 10 ns on one core; memory stays below 1 byte for each 8 steps.
STEPS_OF_A_CODE = 64  # or of a counter: 8 bytes of memory
STEPS_OF_A_DIGIT = 8
STEPS_OF_A_CALL = 3000  # of the range coder, at least one for each frame


def steps(sizes: Sequence[int], frames: int, whole: int | None) -> int:
    """Steps that `entropy_decode` takes with `whole`, or `unpack_codes` where that is None."""
    codes = STEPS_OF_A_CODE * len(sizes) * frames
    if whole is None:
        return codes
    radices = [plane.radix for plane in planes(sizes, whole) if not plane.raw]
    counters = sum(radix + (radix**2 if radix <= FOLLOWED_ALPHABET else 0) for radix in radices)
    frame = sum(
        STEPS_OF_A_CALL + (of.stop - of.start) * (STEPS_OF_A_DIGIT + max(radices[of]))
        for of in parts(radices)
    )
    return codes + STEPS_OF_A_CODE * counters + frames * frame

"""`Reach`: how far the output of a module depends on its input in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Reach:
    """How far a module sees, beyond the frame itself that it makes or reads: an attribute `reach` of
    encoders, decoders and quantizers.

    Encoders count in samples: latents of frame t depend on the samples tH - past … (t + 1)H + future.
    Decoders and quantizers count in frames: the output of frame t depends on the frames t - past … t +
    future. A stream that is processed in pieces, each with that much context, gives what the whole gives.
    """

    past: int | None  # None: everything before, as with a recurrent layer
    future: int


def widest(reaches: Sequence[Reach]) -> Reach:
    """The reach of modules side by side: the furthest of each direction."""
    pasts = [reach.past for reach in reaches if reach.past is not None]
    past = max(pasts, default=0) if len(pasts) == len(reaches) else None
    return Reach(past, max((reach.future for reach in reaches), default=0))

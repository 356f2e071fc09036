"""`Reach`: the receptive field of a module, as left context and lookahead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Reach:
    """Left context and lookahead of a module, in addition to the current frame.

    It is the attribute `reach` of encoders, decoders and quantizers. Encoders count in samples: the latents
    of frame t depend on the samples tH - past … (t + 1)H + future, with hop length H. Decoders and quantizers
    count in frames: the output of frame t depends on the frames t - past … t + future. Processing a stream in
    chunks, each with this much context, gives the same result as processing it as a whole.
    """

    past: int | None  # left context; None: unlimited, as in a recurrent layer
    future: int  # lookahead


def widest(reaches: Sequence[Reach]) -> Reach:
    """Return the reach of parallel modules: the maximum in each direction."""
    pasts = [reach.past for reach in reaches if reach.past is not None]
    past = max(pasts, default=0) if len(pasts) == len(reaches) else None
    return Reach(past, max((reach.future for reach in reaches), default=0))

"""Checks of the stages of a residual quantizer, and their combined reach."""

from __future__ import annotations

import math
from collections.abc import Sequence

from codecvq.api.reach import Reach
from codecvq.errors import OptionError
from codecvq.quantizer.author import Quantizer


def check_stages(stages: Sequence[Quantizer]) -> None:
    """Raise OptionError for stages with several codebooks, or with different grids."""
    counts = [stage.num_codebooks for stage in stages]
    if any(each != 1 for each in counts):
        raise OptionError(
            f"a residual stage has one codebook, but these have {counts}. "
            "Use stages with one codebook each. For groups of residual stacks use grouped_residual_X."
        )
    grids = [stage for stage in stages if stage.refines]
    if grids and any(stage is not stages[0] for stage in stages):
        raise OptionError(
            f"stages of {type(grids[0]).__name__} refine one grid and share one quantizer, but "
            f"{len(stages)} are given."
        )


def check_strides(strides: Sequence[int], count: int) -> None:
    """Raise OptionError unless `strides` is empty or has one positive number per stage."""
    if strides and (len(strides) != count or any(not isinstance(s, int) or s < 1 for s in strides)):
        raise OptionError(
            f"strides is {list(strides)!r}; needed are {count} whole numbers from 1 up, one per codebook, as "
            f"{[2 ** (count - 1 - n) for n in range(count)]}"
        )


def check_beam(beam: int, stages: Sequence[Quantizer], strides: Sequence[int]) -> None:
    """Raise OptionError if these stages cannot search a beam of this width."""
    if not isinstance(beam, int) or beam < 1:
        raise OptionError(f"beam is {beam!r}; needed is a whole number from 1 up")
    if beam == 1:
        return
    first = type(stages[0]).__name__
    if not all(stage.lists_candidates for stage in stages):
        raise OptionError(
            f"beam is {beam}, but {first} lists no candidates to search. "
            "Set beam: 1, or define candidates(vectors, count)."
        )
    if any(stride > 1 for stride in strides):
        raise OptionError(f"beam is {beam}, but stages with strides have no beam search. Set beam: 1.")
    if any(stage.own_gradient for stage in stages):
        raise OptionError(
            f"beam is {beam}, but the values of {first} carry their own gradient, which a beam search would "
            "drop. Set beam: 1."
        )


def combined_reach(reaches: Sequence[Reach], strides: Sequence[int]) -> Reach:
    """Return the reach of all stages in sequence, each of which works on the blocks of its stride."""
    past: int | None = 0
    future = 0
    for reach, stride in zip(reaches, strides, strict=True):
        own = None if reach.past is None else reach.past * stride + stride - 1
        past = None if past is None or own is None else past + own
        future += reach.future * stride + stride - 1
    return Reach(past, future)


def combined_block_reach(reaches: Sequence[Reach], strides: Sequence[int]) -> Reach:
    """Return the reach of a block of lcm(strides) frames as a whole, beyond the block.

    It is smaller than `combined_reach`: within a block, strides need no more frames than the block.
    """
    length = math.lcm(*strides)
    start: int | None = 0
    end = length
    for reach, stride in zip(reversed(reaches), reversed(strides), strict=True):
        end = (-(-end // stride) + reach.future) * stride
        start = None if start is None or reach.past is None else (start // stride - reach.past) * stride
    return Reach(None if start is None else -start, end - length)

"""Prefilter for nearest-codeword search: scores in bfloat16 whose error has a proven bound.

The nearest codeword has the greatest score s = z·c - h, where the height h is |c|²/2 minus its mean over the
codebook. A processor with instructions for bfloat16 (8 significant bits) multiplies such matrices more than
twice as fast as float32. Let z̃ and c̃ be the rounded vectors, and h̃ the height rounded to the sum of two
bfloat16 numbers. By the triangle and Cauchy-Schwarz inequalities, the score s̃, a float32 sum of n = D + 2
products, satisfies

    |s - s̃|  <=  |z - z̃| |c|  +  |z̃| |c - c̃|  +  |h - h̃|  +  n 2^-23 (|z̃| |c̃| + |h̃|)

Storing it in bfloat16 adds at most 2^-8 |s̃|. (This assumes that products do not underflow in float32.) The
greatest s̃ of a group of codewords thus gives an interval that contains its greatest s. Only groups whose
interval reaches the greatest lower end are scored again in float32; in practice one or two. If bfloat16
cannot separate the codewords, many groups remain, and the caller searches without the prefilter. That costs
time but never changes a code.

Codewords are centered, so the mean of s over the codebook is 0, and the greatest s is at least 0. A group
whose scores are all negative may therefore count as 0.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

GROUP = 64  # codewords that are selected or excluded together
ROWS = 1024  # vectors per tile
PART = 1024  # codewords per tile, and whose norms are computed at a time (avoids a copy of a large codebook)
SCORED_AGAIN = 1 / 4  # greatest fraction of groups to score again: above it, float32 alone is as fast
UNIT = 2.0**-8  # greatest relative error of a bfloat16 number
MARGIN = 1.01  # for rounding errors of the bound itself, which are about a hundred times smaller


class CoarseTable(NamedTuple):
    """A codebook in bfloat16. The last group may be padded with codewords at height infinity."""

    codewords: Tensor  # [K, D + 2] bfloat16: c̃ and the two parts of -h̃
    error: Tensor  # [3, K / GROUP]: factors of |z - z̃|, |z̃| and 1 in the bound, maxima per group


@lru_cache(maxsize=1)
def has_fast_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16 matrix products."""
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch has no public API for it
    return bool(known and known())


def coarse_table(codewords: Tensor, half_norms: Tensor, size: int) -> CoarseTable:
    """Return the table of centered codewords `[K, D]` with |c|²/2 `[K]`; the first `size` are not padding."""
    heights = half_norms - half_norms[:size].mean()
    heights[size:] = 0
    high = heights.bfloat16()
    low = (heights - high.float()).bfloat16()
    rounded = torch.empty(len(codewords), codewords.shape[1] + 2, dtype=torch.bfloat16)
    rounded[:, :-2], rounded[:, -2], rounded[:, -1] = codewords, -high, -low
    parts = zip(codewords.split(PART), rounded[:, :-2].split(PART), strict=True)
    length, rounding_error, coarse_length = torch.cat([_lengths(*part) for part in parts], dim=1)
    sums = rounded.shape[1] * 2.0**-23
    height_error = (heights - high.float() - low.float()).abs() + sums * (high.abs() + low.abs()).float()
    bounds = torch.stack([length, rounding_error + sums * coarse_length, height_error])  # [3, K]
    error = bounds.unflatten(1, (-1, GROUP)).amax(dim=2)
    rounded[size:, -2] = -torch.inf
    return CoarseTable(rounded, error)


def _lengths(codewords: Tensor, rounded: Tensor) -> Tensor:
    """Return |c|, |c - c̃| and |c̃|: `[K, D]`, `[K, D]` -> `[3, K]`."""
    coarse = rounded.float()
    return torch.stack([codewords.norm(dim=1), (codewords - coarse).norm(dim=1), coarse.norm(dim=1)])


def candidate_groups(
    vectors: Tensor, table: CoarseTable, share: float = SCORED_AGAIN
) -> tuple[Tensor, Tensor] | None:
    """Return pairs (group of codewords, vector) that may contain the vector's nearest codeword.

    Pairs are in the order of groups. Returns None if there are more than two pairs per vector on average and
    also more than the fraction `share` of all pairs.

    Shapes: centered float32 vectors `[R, D]` -> int64 `[P]`, `[P]`.
    """
    coarse = vectors.bfloat16()
    greatest = _greatest_scores(torch.cat([coarse, coarse.new_ones(len(vectors), 2)], dim=1), table.codewords)
    rounding_error, length = (vectors - coarse.float()).norm(dim=1), coarse.float().norm(dim=1)
    factors = torch.stack([rounding_error, length, torch.ones_like(length)], dim=1)  # [R, 3]
    error = torch.addmm(greatest, factors, table.error, beta=MARGIN * UNIT, alpha=MARGIN)  # [R, G]
    lower = (greatest - error).amax(dim=1, keepdim=True)
    excluded = greatest.add_(error) < lower  # False for NaN, so that no group is excluded
    row, group = excluded.logical_not_().nonzero(as_tuple=True)
    if len(row) > max(2 * len(vectors), share * excluded.numel()):
        return None
    group, order = group.sort(stable=True)
    return group, row[order]


def _greatest_scores(rounded: Tensor, codewords: Tensor) -> Tensor:
    """Return the greatest score of each group, or 0 if it is negative.

    Shapes: bfloat16 `[R, D + 2]` -> float32 `[R, G]`.
    """
    rows = min(len(rounded), ROWS)
    buffer = rounded.new_empty(rows * PART)  # at most 2 MB, which fits into the cache
    greatest = torch.empty(len(rounded), len(codewords) // GROUP, dtype=torch.int16)
    for tile, target in zip(rounded.split(rows), greatest.split(rows), strict=True):
        for part, out in zip(codewords.split(PART), target.split(PART // GROUP, dim=1), strict=True):
            scores = buffer[: len(tile) * len(part)].view(len(tile), -1)
            torch.mm(tile, part.T, out=scores)
            # Interpreted as integers, non-negative bfloat16 numbers keep their order and are above negative
            # ones. torch compares integers six times as fast.
            torch.amax(scores.view(torch.int16).unflatten(1, (-1, GROUP)), dim=2, out=out)
    return greatest.clamp_(min=0).view(torch.bfloat16).float()


def nearest_in_groups(
    pairs: tuple[Tensor, Tensor], vectors: Tensor, codewords: Tensor, half_norms: Tensor
) -> Tensor:
    """Return the nearest codeword within the groups of each vector: `[R, D]` -> `[R]`.

    The lowest index wins a tie.
    """
    group, row = pairs
    scores = vectors.new_empty(len(row), GROUP)
    counts = group.bincount(minlength=len(codewords) // GROUP).tolist()
    for i, (rows, out) in enumerate(zip(row.split(counts), scores.split(counts), strict=True)):
        if len(rows):
            group_i = slice(i * GROUP, (i + 1) * GROUP)
            torch.addmm(half_norms[group_i], vectors[rows], codewords[group_i].T, alpha=-1, out=out)
    least, index = scores.min(dim=1)
    best = least.new_full((len(vectors),), torch.inf).scatter_reduce_(0, row, least, "amin")
    codes = (group * GROUP + index).where(least == best[row], len(codewords))
    return codes.new_full((len(vectors),), len(codewords)).scatter_reduce_(0, row, codes, "amin")

"""Beam search through the stages of a residual quantizer.

The nearest codeword at each stage need not lead to the nearest sum. Beam search extends the `beam` best
partial sums by their `beam` best next codewords each. If `beam` covers all sums, the result is optimal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codecvq.quantizer.engine import Context
from codecvq.quantizer.frames import Frames

if TYPE_CHECKING:
    from codecvq.quantizer.residual import Residual

FLOATS = 2**22  # elements of partial sums in memory at a time: 16 MB


@torch.no_grad()
def beam_search(stack: Residual, vectors: Tensor, beam: int) -> Tensor:
    """Return the codes of all stages: `[M, D]` after `bound` -> int64 `[M, N]`."""
    rows = max(1, FLOATS // (beam * beam * max(1, vectors.shape[1])))
    return torch.cat([_search(stack, tile, beam) for tile in vectors.split(rows)])


def _search(stack: Residual, vectors: Tensor, beam: int) -> Tensor:
    residuals = vectors[:, None]  # [M, sums, D]: residual of each partial sum
    totals = torch.zeros_like(residuals)  # [M, sums, D]
    codes = vectors.new_zeros(len(vectors), 1, 0, dtype=torch.int64)  # [M, sums, stages done]
    for n in range(stack.num_codebooks):
        sums = residuals.shape[1]
        width = min(beam, stack.codebook_sizes[n])
        flat, total = residuals.flatten(0, 1), totals.flatten(0, 1)
        stage, context = stack.stage(n), _context(total)
        entered = stack.to_stage_space(n, flat)
        candidates = stage.candidates_with_context(entered, width, context)  # [M·sums, width]
        flat, total = (rows.repeat_interleave(width, dim=0) for rows in (flat, total))
        value = stage.dequantize_with_context(candidates.reshape(-1, 1), _context(total))
        values = stack.from_stage_space(n, value)
        residuals, totals = ((flat - values), (total + values))
        residuals, totals = (rows.unflatten(0, (-1, sums * width)) for rows in (residuals, totals))
        repeated = codes.repeat_interleave(width, dim=1)
        codes = torch.cat([repeated, candidates.view(len(vectors), sums * width, 1)], dim=2)
        best = residuals.square().sum(dim=2).topk(min(beam, sums * width), dim=1, largest=False).indices
        residuals, totals, codes = (
            rows.gather(1, best[:, :, None].expand(-1, -1, rows.shape[2]))
            for rows in (residuals, totals, codes)
        )
    return codes[:, 0]


def _context(partial_sum: Tensor) -> Context:
    return Context(Frames(1, len(partial_sum), None, partial_sum.device), partial_sum)


@torch.no_grad()
def nearest_candidates(vectors: Tensor, codebook: Tensor, count: int) -> Tensor:
    """Return the `count` nearest codewords of each vector, nearest first.

    Shapes: `[M, D]`, `[K, D]` -> int64 `[M, count]`.
    """
    center = codebook.mean(dim=0)  # subtracted for precision, as in `nearest_codes`
    centered = codebook - center
    half_norms = centered.square().sum(dim=1) / 2
    tiles = (vectors - center).split(max(1, FLOATS // len(codebook)))
    scores = (torch.addmm(half_norms, tile, centered.T, alpha=-1) for tile in tiles)
    return torch.cat([score.topk(count, dim=1, largest=False).indices for score in scores])

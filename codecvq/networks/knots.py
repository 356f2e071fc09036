"""Values that stand closer than frames, as one value a frame between which lines are drawn.

The value in the middle of a frame is not the best one: a line that is to be near all values of a voice, its
first and its last ones too, has its knots where the sum of squared distances is least. Letters: n values a
frame, T frames.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LIGHT = 1e-3  # the weight of a value that does not count, so that frames without any have a knot


@torch.compiler.disable  # a loop over frames: unrolled, it would be compiled for minutes
@torch.no_grad()
def knots(values: Tensor, counts: Tensor, times: int, mask: Tensor | None = None) -> Tensor:
    """Knots `[B, T]` of which `source.between(knots, times)` is nearest, in the least squares' sense, to
    values `[B, T * n]`, n = `times`, where these count: bool `[B, T * n]`. Frames that the mask `[B, T]`
    leaves out, which are at the end, change nothing before them.
    """
    batch, frames = len(values), values.shape[1] // times
    values = values.double().view(batch, frames, times)
    weights = torch.where(counts, 1.0, LIGHT).double().view(batch, frames, times)
    real = values.new_ones(batch, frames) if mask is None else mask.double()
    weights = weights * real[..., None]

    # A value that is a share o of a frame after the middle is on the line (1 - o) x_t + o x_{t+1}
    offsets = (torch.arange(times, device=values.device) + 0.5) / times - 0.5
    last = (real > 0) & (F.pad(real[:, 1:], (0, 1)) == 0)
    first = torch.zeros_like(last)
    first[:, 0] = True
    ahead = offsets.clamp(min=0) * ~last[..., None]
    behind = (-offsets).clamp(min=0) * ~first[..., None]
    own = 1 - ahead - behind

    diagonal = (weights * own * own).sum(2) + (1 - real)
    diagonal[:, 1:] += (weights * ahead * ahead).sum(2)[:, :-1]
    diagonal[:, :-1] += (weights * behind * behind).sum(2)[:, 1:]
    wanted = (weights * own * values).sum(2)
    wanted[:, 1:] += (weights * ahead * values).sum(2)[:, :-1]
    wanted[:, :-1] += (weights * behind * values).sum(2)[:, 1:]
    beside = (weights * own * ahead).sum(2)[:, :-1] + (weights * own * behind).sum(2)[:, 1:]
    return _solved(diagonal, beside, wanted).to(torch.float32)


def _solved(diagonal: Tensor, beside: Tensor, wanted: Tensor) -> Tensor:
    """x `[B, T]` of A x = wanted for a symmetric A with three diagonals, `[B, T]` and `[B, T - 1]`, by
    elimination from the first to the last and back.
    """
    pivots, rights = [diagonal[:, 0]], [wanted[:, 0]]
    for t in range(1, diagonal.shape[1]):
        factor = beside[:, t - 1] / pivots[-1]
        pivots.append(diagonal[:, t] - factor * beside[:, t - 1])
        rights.append(wanted[:, t] - factor * rights[-1])
    solution = [rights[-1] / pivots[-1]]
    for t in range(diagonal.shape[1] - 2, -1, -1):
        solution.append((rights[t] - beside[:, t] * solution[-1]) / pivots[t])
    return torch.stack(solution[::-1], dim=1)

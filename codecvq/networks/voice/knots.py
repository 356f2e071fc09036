"""Values that stand closer than frames, as one value a frame between which lines are drawn.

The value in the middle of a frame is not the best one: a line that is to be near all values of a voice, its
first and its last ones too, has its knots where the sum of squared distances is least. Letters: n values a
frame, T frames.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_WEIGHT = 1e-3  # the weight of a value that does not count, so that frames without any have a knot


@torch.compiler.disable  # no gradient passes, and compilers stumble over its float64
@torch.no_grad()
def knots(values: Tensor, valid: Tensor, upsampling: int, mask: Tensor | None = None) -> Tensor:
    """Knots `[B, T]` of which `interpolate(knots, upsampling)` is nearest, in the least squares sense,
    to values `[B, T * n]`, n = `upsampling`, where these count: bool `[B, T * n]`. Frames that the mask
    `[B, T]` leaves out, which are at the end, change nothing before them.
    """
    batch, frames = len(values), values.shape[1] // upsampling
    values = values.double().view(batch, frames, upsampling)
    weights = torch.where(valid, 1.0, MIN_WEIGHT).double().view(batch, frames, upsampling)
    real = values.new_ones(batch, frames) if mask is None else mask.double()
    weights = weights * real[..., None]

    # A value that is a share o of a frame after the middle is on the line (1 - o) x_t + o x_{t+1}
    offsets = (torch.arange(upsampling, device=values.device) + 0.5) / upsampling - 0.5
    last = (real > 0) & (F.pad(real[:, 1:], (0, 1)) == 0)
    first = torch.zeros_like(last)
    first[:, 0] = True
    ahead = offsets.clamp(min=0) * ~last[..., None]
    behind = (-offsets).clamp(min=0) * ~first[..., None]
    own = 1 - ahead - behind

    diagonal = (weights * own * own).sum(2) + (1 - real)
    diagonal[:, 1:] += (weights * ahead * ahead).sum(2)[:, :-1]
    diagonal[:, :-1] += (weights * behind * behind).sum(2)[:, 1:]
    target = (weights * own * values).sum(2)
    target[:, 1:] += (weights * ahead * values).sum(2)[:, :-1]
    target[:, :-1] += (weights * behind * values).sum(2)[:, 1:]
    off_diagonal = (weights * own * ahead).sum(2)[:, :-1] + (weights * own * behind).sum(2)[:, 1:]
    return _solved(diagonal, off_diagonal, target).to(torch.float32)


def _solved(diagonal: Tensor, off_diagonal: Tensor, target: Tensor) -> Tensor:
    """x `[B, T]` of A x = wanted for a symmetric A with three diagonals, `[B, T]` and `[B, T - 1]`.

    Cyclic reduction in log2 T rounds over all rows: row t, l x[t - s] + d x[t] + u x[t + s] = w, becomes one
    of x[t - 2s], x[t] and x[t + 2s] by adding multiples of rows t - s and t + s. A loop over frames would
    queue some ten kernels for each of them on a GPU.
    """
    low, high, right = F.pad(off_diagonal, (1, 0)), F.pad(off_diagonal, (0, 1)), target
    span = 1
    while span < diagonal.shape[1]:
        down = -low / _shifted(diagonal, span, 1.0)
        up = -high / _shifted(diagonal, -span, 1.0)
        diagonal, right, low, high = (
            diagonal + down * _shifted(high, span) + up * _shifted(low, -span),
            right + down * _shifted(right, span) + up * _shifted(right, -span),
            down * _shifted(low, span),
            up * _shifted(high, -span),
        )
        span *= 2
    return right / diagonal


def _shifted(rows: Tensor, span: int, fill: float = 0.0) -> Tensor:
    """Rows `[B, T]` of which each stands `span` further to the right, `beyond` where none is left."""
    return F.pad(rows, (span, -span), value=fill)

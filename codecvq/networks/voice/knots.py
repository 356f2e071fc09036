"""Least-squares fit of a piecewise linear function, with one knot per frame, to several values per frame.

The value in the middle of a frame is not the best knot. The knots minimize the sum of squared distances
between the line and all values of a voiced segment, including its first and last ones. Letters in shapes: n
values per frame, T frames.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_WEIGHT = 1e-3  # weight of invalid values, so that frames without valid ones have a knot


@torch.compiler.disable  # it has no gradient, and compilers fail on its float64
@torch.no_grad()
def knots(values: Tensor, valid: Tensor, upsampling: int, mask: Tensor | None = None) -> Tensor:
    """Fit knots `[B, T]` to values `[B, T * n]`, n = `upsampling`, where `valid` bool `[B, T * n]` is True.

    `source.interpolate(knots, upsampling)` then has the least squared distance to these values. Padded
    frames, where the mask `[B, T]` is False, are at the end and do not affect earlier frames.
    """
    batch, frames = len(values), values.shape[1] // upsampling
    values = values.double().view(batch, frames, upsampling)
    weights = torch.where(valid, 1.0, MIN_WEIGHT).double().view(batch, frames, upsampling)
    unpadded = values.new_ones(batch, frames) if mask is None else mask.double()
    weights = weights * unpadded[..., None]

    # A value at the fraction o of a frame after the middle is on the line (1 - o) x_t + o x_{t+1}.
    offsets = (torch.arange(upsampling, device=values.device) + 0.5) / upsampling - 0.5
    last = (unpadded > 0) & (F.pad(unpadded[:, 1:], (0, 1)) == 0)
    first = torch.zeros_like(last)
    first[:, 0] = True
    ahead = offsets.clamp(min=0) * ~last[..., None]
    behind = (-offsets).clamp(min=0) * ~first[..., None]
    own = 1 - ahead - behind

    diagonal = (weights * own * own).sum(2) + (1 - unpadded)
    diagonal[:, 1:] += (weights * ahead * ahead).sum(2)[:, :-1]
    diagonal[:, :-1] += (weights * behind * behind).sum(2)[:, 1:]
    target = (weights * own * values).sum(2)
    target[:, 1:] += (weights * ahead * values).sum(2)[:, :-1]
    target[:, :-1] += (weights * behind * values).sum(2)[:, 1:]
    off_diagonal = (weights * own * ahead).sum(2)[:, :-1] + (weights * own * behind).sum(2)[:, 1:]
    return _solved(diagonal, off_diagonal, target).to(torch.float32)


def _solved(diagonal: Tensor, off_diagonal: Tensor, target: Tensor) -> Tensor:
    """Solve A x = target for a symmetric tridiagonal A, `[B, T]` and `[B, T - 1]`: x `[B, T]`.

    It uses cyclic reduction in log2 T rounds over all rows. Row t, l x[t - s] + d x[t] + u x[t + s] = w,
    becomes a row of x[t - 2s], x[t] and x[t + 2s] by adding multiples of rows t - s and t + s. A loop over
    frames would launch about ten kernels per frame on a GPU.
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
    """Shift rows `[B, T]` by `span` to the right, and fill with `fill`."""
    return F.pad(rows, (span, -span), value=fill)

"""Quantizer dropout: in training, each batch item uses only its first n codebooks.

One model then serves several bit rates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codecvq.errors import OptionError
from codecvq.quantizer.frames import Frames
from codecvq.transfer import to_device


def check_dropout(dropout: float, depths: Sequence[int], count: int) -> None:
    """Raise OptionError if `dropout` is not a probability or `depths` are not within 1 … `count`."""
    if not 0.0 <= dropout <= 1.0:
        raise OptionError(f"dropout is {dropout}; needed is a probability from 0 to 1")
    if isinstance(depths, (str, int)) or any(not isinstance(n, int) or not 1 <= n <= count for n in depths):
        raise OptionError(
            f"dropout_depths is {depths!r}; needed is a list of whole numbers from 1 to {count}, for "
            f"example {list(range(1, count + 1))}; a number listed twice is drawn twice as often"
        )


def draw_depths(
    count: int, depth: int, dropout: float, depths: Sequence[int], generator: torch.Generator | None
) -> Tensor:
    """Draw the dropout depth of each of `count` batch items: int64 `[B]`.

    With probability `dropout`, it is drawn uniformly from `depths` (if empty, from 1 … `depth`) and clamped
    to `depth`. Otherwise it is `depth`.

    The result is on the device of the generator, by default the CPU. On the CPU, the number of vectors of
    each codebook is known without synchronizing with the GPU.
    """
    device = generator.device if generator is not None else torch.device("cpu")
    choices = torch.tensor([*depths] or range(1, depth + 1), device=device).clamp(max=depth)
    drawn = choices[torch.randint(0, len(choices), (count,), generator=generator, device=device)]
    drop = torch.rand(count, generator=generator, device=device) < dropout
    return torch.where(drop, drawn, depth)


def rows_by_codebook(depths: Tensor, frames: Frames, depth: int) -> list[Tensor | slice]:
    """Return the indices of the vectors on which each of the first `depth` codebooks is active.

    `depths` `[B]` are the dropout depths of the batch items.
    """
    if not frames.is_complete:
        vector_depths = to_device(depths, frames.device)[frames.items]  # [M]
        return [(vector_depths > n).nonzero()[:, 0] for n in range(depth)]
    depths, order = depths.cpu(), torch.arange(frames.length)  # on the CPU, except with a generator on a GPU
    rows = [((depths > n).nonzero() * frames.length + order).flatten() for n in range(depth)]
    return list(to_device(torch.cat(rows), frames.device).split([len(part) for part in rows]))


def active_mask(rows: Sequence[Tensor | slice], count: int) -> Tensor | None:
    """Return which codebooks are active for each of `count` vectors: bool `[count, n]`; None: all.

    `rows` are the vectors on which each codebook is active.
    """
    devices = [indices.device for indices in rows if isinstance(indices, Tensor)]
    if not devices:
        return None
    active = torch.zeros(len(rows), count, dtype=torch.bool, device=devices[0])
    for column, indices in zip(active, rows, strict=True):
        if isinstance(indices, Tensor):
            column.index_fill_(0, indices, True)
        else:
            column[indices] = True
    return active.T


def scatter_rows(rows: Tensor | slice, part: Tensor, count: int) -> Tensor:
    """Scatter `part` `[m, X]` into `rows`, zeros elsewhere: `[count, X]`. A slice stands for all rows."""
    if isinstance(rows, slice):
        return part
    return part.new_zeros(count, part.shape[1]).index_copy(0, rows, part)

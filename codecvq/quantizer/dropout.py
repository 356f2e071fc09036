"""Quantizer dropout: each item of a batch keeps its first n codebooks, so that one set of weights serves all
rates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codecvq.errors import OptionError


def check_dropout(dropout: float) -> None:
    """Raise OptionError where it is no probability."""
    if not 0.0 <= dropout <= 1.0:
        raise OptionError(f"dropout is {dropout}; it is a probability, 0 to 1")


def drawn_depths(items: Tensor, depth: int, dropout: float, generator: torch.Generator | None) -> Tensor:
    """How many of `depth` codebooks each item of `items` `[B]` keeps, `[B]`: all, or with probability
    `dropout` n of them, n uniform in 1 … depth.
    """
    device = generator.device if generator is not None else torch.device("cpu")
    some = torch.randint(1, depth + 1, items.shape, generator=generator, device=device)
    drop = torch.rand(items.shape, generator=generator, device=device) < dropout
    return torch.where(drop, some, depth).to(items.device)


def rows_of(depths: Tensor, depth: int) -> list[Tensor | slice]:
    """Which vectors each of the first `depth` codebooks sees, of the depths `[M]` of all."""
    return [(depths > n).nonzero()[:, 0] for n in range(depth)]


def in_rows(rows: Tensor | slice, part: Tensor, count: int) -> Tensor:
    """`part` in the rows of `[count, X]` that it is of, 0 in the others; a slice is all of them."""
    if isinstance(rows, slice):
        return part
    return part.new_zeros(count, part.shape[1]).index_copy(0, rows, part)

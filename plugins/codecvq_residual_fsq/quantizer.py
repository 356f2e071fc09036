"""Residual FSQ: the digits of one bounded vector in base L, coarsest first.

With c = L/(L - 1) the input is bounded to x' = c tanh(z/c), in (-c, c), once. Stage i rounds what is left of
x' to L levels on a grid finer by L^-i. The L cells of a stage have equal width 2c/L, and what is left lies in
a cell of that width, so the sum of n stages is within c L^-n of x' (of x', not of z: compare with x'). The
digits are those of one whole number,

    m = floor((x'/c + 1)/2 · L^n)        k_i = floor(m / L^(n-1-i)) mod L

taken from it in float64: subtracting stage after stage in float32 has lost the fifth digit already.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from codecvq_fsq.quantizer import FSQ
from torch import Tensor

from codecvq.errors import OptionError
from codecvq.quantizer import Residual

EXACT = 2**52  # finest cell that float64 still tells apart


class ResidualFSQ(Residual):
    """`num_codebooks` digits of an FSQ with `levels`; `dropout` as of every residual quantizer."""

    def __init__(
        self,
        dim: int,
        levels: Sequence[int],
        *,
        num_codebooks: int,
        dropout: float = 0.0,
        estimator: str = "ste",
    ) -> None:
        stage = FSQ(len(levels) if isinstance(levels, Sequence) else 1, levels, estimator=estimator)
        most = next(n for n in itertools.count() if max(levels) ** (n + 1) > EXACT)
        if not isinstance(num_codebooks, int) or not 1 <= num_codebooks <= most:
            raise OptionError(
                f"residual_fsq: num_codebooks is {num_codebooks!r}; with {max(levels)} levels it is a whole "
                f"number from 1 to {most}: float64 holds no more digits"
            )
        super().__init__(dim, [stage], num_codebooks=num_codebooks, dropout=dropout)
        self.levels = stage.levels

    def bound(self, vectors: Tensor) -> Tensor:
        """x' = c tanh(z/c): `[M, D]` -> `[M, D]`."""
        limit = self.levels / (self.levels - 1)
        return limit * (vectors / limit).tanh()

    def choose(self, vectors: Tensor, depth: int) -> Tensor:
        """The first `depth` digits of x': `[M, D]` -> codes `[M, depth]`."""
        stage = self.stage(0)
        assert isinstance(stage, FSQ), "a residual FSQ is made of an FSQ"
        limit = self.levels.double() / (self.levels - 1)
        finest = self.levels.double() ** self.num_codebooks
        cell = ((vectors.double() / limit + 1) / 2 * finest).floor()
        cell = torch.minimum(cell, finest - 1).clamp(min=0).long()  # [M, D]; tanh may round to ±1
        powers = [self.levels ** (self.num_codebooks - 1 - i) for i in range(depth)]
        return torch.stack(
            [(cell // power % self.levels * stage.radix).sum(dim=1) for power in powers], dim=1
        )

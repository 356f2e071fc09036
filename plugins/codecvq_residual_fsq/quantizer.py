"""Residual FSQ: the digits of one bounded vector in base L, coarsest first.

With c = L/(L - 1) the input is bounded to x' = c tanh(z/c), in (-c, c), once. Stage i rounds what is left of
x' to L levels on a grid finer by L^-i. The L cells of a stage have equal width 2c/L, and what is left lies in
a cell of that width, so the sum of n stages is within c L^-n of x' (of x', not of z: compare with x'). The
digits are those of one whole number,

    m = floor((x'/c + 1)/2 · L^n)        k_i = floor(m / L^(n-1-i)) mod L

taken from it in float64: subtracting stage after stage in float32 has lost the fifth digit already. The first
n digits say in which of L^n cells x' lies, m_n = floor(m / L^(N-n)), and their stages sum to its middle,

    c ((2 m_n + 1) / L^n - 1)

so values need no sum over stages: forward and decode compute this from the same whole number.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from codecvq_fsq.quantizer import FSQ, MAX_EXACT_CODE
from torch import Tensor

from codecvq.errors import OptionError
from codecvq.quantizer import Context, Residual, Step, Terms, to_device


class ResidualFSQ(Residual):
    """`num_codebooks` digits of an FSQ with `levels`; `dropout` as of every residual quantizer."""

    def __init__(
        self,
        dim: int,
        levels: Sequence[int],
        *,
        num_codebooks: int,
        dropout: float = 0.0,
        dropout_depths: Sequence[int] = (),
        estimator: str = "ste",
    ) -> None:
        stage = FSQ(len(levels) if isinstance(levels, Sequence) else 1, levels, estimator=estimator)
        most = next(n for n in itertools.count() if max(levels) ** (n + 1) > MAX_EXACT_CODE)
        if not isinstance(num_codebooks, int) or not 1 <= num_codebooks <= most:
            raise OptionError(
                f"residual_fsq: num_codebooks is {num_codebooks!r}; with {max(levels)} levels it is a whole "
                f"number from 1 to {most}: float64 holds no more digits"
            )
        super().__init__(
            dim, [stage], num_codebooks=num_codebooks, dropout=dropout, dropout_depths=dropout_depths
        )

    @property
    def grid(self) -> FSQ:
        """The one stage that serves all; its levels stay whole numbers here, as powers must be exact."""
        stage = self.stage(0)
        assert isinstance(stage, FSQ), "a residual FSQ is made of an FSQ"
        return stage

    def bound(self, vectors: Tensor) -> Tensor:
        """x' = c tanh(z/c): `[M, D]` -> `[M, D]`."""
        limit = self.grid.levels / (self.grid.levels - 1)
        return limit * (vectors / limit).tanh()

    def choose(
        self, vectors: Tensor, context: Context, depth: int, active: Sequence[Tensor | slice] | None = None
    ) -> Tensor:
        """The first `depth` digits of x': `[M, D]` -> codes `[M, depth]`; a grid learns nothing from whom it
        sees, so `kept` is of no interest here.
        """
        return self._codes(self._cells(vectors, depth))

    def dequantize_with_context(self, codes: Tensor, context: Context) -> Tensor:
        """The middle of the cell that the digits name: `[M, n]`, n at most N -> `[M, D]`."""
        depth = codes.shape[1]
        below = self._cells_within(depth, torch.arange(1, depth + 1, device=codes.device))  # [n, 1, D]
        cells = (self.grid.digits_of(codes.T) * below).sum(dim=0)
        return self._middle(cells, depth)

    def step(self, vectors: Tensor, context: Context, depth: int) -> Step:
        """All digits at once; with dropout each vector has the middle of the cell of its own depth."""
        if context.parts:
            return super().step(vectors, context, depth)
        entered = self.to_code_space(vectors)
        with torch.no_grad():
            cells = self._cells(entered, depth)
            codes, values = self._codes(cells), self._middle(cells[-1], depth)
            active: Tensor | None = None
            if self.training and self.dropout > 0:
                of_items = to_device(self.draw_depths(context.frames.count, depth), codes.device)
                depths = of_items[context.frames.items][:, None]  # [M, 1]
                active = torch.arange(depth, device=codes.device) < depths
                codes = codes.where(active, 0)
                cell = cells.gather(0, (depths - 1).expand_as(values)[None])[0]
                values = self._middle(cell, depths)
        return Step(self.project_out(self.apply_estimator(entered, values)), codes, Terms(), [], active)

    def _cells(self, vectors: Tensor, depth: int) -> Tensor:
        """Which of the L^n cells each channel of x' lies in, for n = 1 … depth: `[M, D]` -> whole numbers in
        float64 `[depth, M, D]`.
        """
        levels = self.grid.levels.double()
        finest = (self.grid.levels**self.num_codebooks).double()
        cell = ((vectors.double() / (levels / (levels - 1)) + 1) / 2 * finest).floor()
        cell = torch.minimum(cell, finest - 1).clamp(min=0)  # tanh may round to ±1
        stages = torch.arange(1, depth + 1, device=vectors.device)
        return (cell / self._cells_within(self.num_codebooks, stages)).floor_()

    def _cells_within(self, depth: int, stages: Tensor) -> Tensor:
        """How many cells of `depth` digits a cell of n digits has, for each n: `[n]` -> `[n, 1, D]`."""
        return (self.grid.levels ** (depth - stages)[:, None, None]).double()

    def _codes(self, cells: Tensor) -> Tensor:
        """Cells of 1 … n digits, `[n, M, D]` -> codes `[M, n]`."""
        levels = self.grid.levels.double()
        coarser = [torch.zeros_like(cells[0]), *cells[:-1]]
        digits = (cell - above * levels for cell, above in zip(cells, coarser, strict=True))
        return torch.stack([self.grid.codes_of(part) for part in digits], dim=1)

    def _middle(self, cell: Tensor, depth: Tensor | int) -> Tensor:
        """The middle of a cell of `depth` digits: float64 `[M, D]` -> float32 `[M, D]`."""
        limit = self.grid.levels.double() / (self.grid.levels - 1)
        return (limit * ((2 * cell + 1) / (self.grid.levels**depth).double() - 1)).float()

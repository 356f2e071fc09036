"""Residual FSQ: the digits of a bounded vector in base L, coarsest first.

With c = L/(L - 1) the input is bounded once, to x' = c tanh(z/c) in (-c, c). Stage i rounds the residual of
x' to L levels, on a grid finer by L^-i. The L cells of a stage have equal width 2c/L, and the residual lies
in a cell of that width. So the sum of n stages is within c L^-n of x'. (This bounds the distance to x', not
to z.) All digits come from one integer,

    m = floor((x'/c + 1)/2 · L^n)        k_i = floor(m / L^(n-1-i)) mod L

computed in float64: subtracting stage after stage in float32 loses digits from the fifth on. With n digits,
the range of x' has L^n cells. The first n digits give the index m_n = floor(m / L^(N-n)) of the cell that
contains x'. Their stages sum to the middle of that cell,

    c ((2 m_n + 1) / L^n - 1)

so values need no sum over stages: forward and decode compute them from the same integer.
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
    """`num_codebooks` stages of FSQ with `levels`; `dropout` works as in every residual quantizer."""

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
                f"residual_fsq: num_codebooks is {num_codebooks!r}; with {max(levels)} levels it must be an "
                f"integer from 1 to {most}, because float64 represents no more digits"
            )
        super().__init__(
            dim, [stage], num_codebooks=num_codebooks, dropout=dropout, dropout_depths=dropout_depths
        )

    @property
    def grid(self) -> FSQ:
        """The single stage that serves all codebooks. Its levels stay integers, so that powers are exact."""
        stage = self.stage(0)
        assert isinstance(stage, FSQ), "the stage of a residual FSQ is an FSQ"
        return stage

    def bound(self, vectors: Tensor) -> Tensor:
        """x' = c tanh(z/c): `[M, D]` -> `[M, D]`."""
        limit = self.grid.levels / (self.grid.levels - 1)
        return limit * (vectors / limit).tanh()

    def choose(
        self, vectors: Tensor, context: Context, depth: int, active: Sequence[Tensor | slice] | None = None
    ) -> Tensor:
        """The first `depth` digits of x': `[M, D]` -> codes `[M, depth]`.

        `active` is ignored, because a grid has no state to update.
        """
        return self._codes(self._cells(vectors, depth))

    def dequantize_with_context(self, codes: Tensor, context: Context) -> Tensor:
        """The middle of the cell with these digits: `[M, n]`, n at most N -> `[M, D]`."""
        depth = codes.shape[1]
        below = self._cells_within(depth, torch.arange(1, depth + 1, device=codes.device))  # [n, 1, D]
        cells = (self.grid.digits_of(codes.T) * below).sum(dim=0)
        return self._middle(cells, depth)

    def step(self, vectors: Tensor, context: Context, depth: int) -> Step:
        """Compute all digits at once. With dropout, values are the middles of cells at each depth."""
        if context.parts:
            return super().step(vectors, context, depth)
        bounded = self.to_code_space(vectors)
        with torch.no_grad():
            cells = self._cells(bounded, depth)
            codes, values = self._codes(cells), self._middle(cells[-1], depth)
            active: Tensor | None = None
            if self.training and self.dropout > 0:
                of_items = to_device(self.draw_depths(context.frames.count, depth), codes.device)
                depths = of_items[context.frames.items][:, None]  # [M, 1]
                active = torch.arange(depth, device=codes.device) < depths
                codes = codes.where(active, 0)
                cell = cells.gather(0, (depths - 1).expand_as(values)[None])[0]
                values = self._middle(cell, depths)
        return Step(self.project_out(self.apply_estimator(bounded, values)), codes, Terms(), [], active)

    def _cells(self, vectors: Tensor, depth: int) -> Tensor:
        """Index of the cell that contains each channel of x', among L^n cells, for n = 1 … depth.

        Shapes: `[M, D]` -> integers stored as float64 `[depth, M, D]`.
        """
        levels = self.grid.levels.double()
        finest = (self.grid.levels**self.num_codebooks).double()
        cell = ((vectors.double() / (levels / (levels - 1)) + 1) / 2 * finest).floor()
        cell = torch.minimum(cell, finest - 1).clamp(min=0)  # tanh may round to ±1
        stages = torch.arange(1, depth + 1, device=vectors.device)
        return (cell / self._cells_within(self.num_codebooks, stages)).floor_()

    def _cells_within(self, depth: int, stages: Tensor) -> Tensor:
        """Number of cells of `depth` digits in a cell of n digits, for each n: `[n]` -> `[n, 1, D]`."""
        return (self.grid.levels ** (depth - stages)[:, None, None]).double()

    def _codes(self, cells: Tensor) -> Tensor:
        """Codes of cell indices for 1 … n digits: `[n, M, D]` -> `[M, n]`."""
        levels = self.grid.levels.double()
        coarser = [torch.zeros_like(cells[0]), *cells[:-1]]
        digits = (cell - above * levels for cell, above in zip(cells, coarser, strict=True))
        return torch.stack([self.grid.codes_of(part) for part in digits], dim=1)

    def _middle(self, cell: Tensor, depth: Tensor | int) -> Tensor:
        """The middle of a cell of `depth` digits: float64 `[M, D]` -> float32 `[M, D]`."""
        limit = self.grid.levels.double() / (self.grid.levels - 1)
        return (limit * ((2 * cell + 1) / (self.grid.levels**depth).double() - 1)).float()

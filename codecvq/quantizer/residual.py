"""`Residual`, a stack of stages, each of which quantizes the residual of the earlier ones.

There are two kinds of stages. A quantizer on a fixed grid (`refines = True`: FSQ, LFQ) refines one vector:
the vector is projected and bounded once, and stage n works on a grid scaled by `stage_scale(n)`. A quantizer
that learns its codebook (VQ, SimVQ) gives every stage its own codebook and, if `code_dim` differs from `dim`,
its own projections (factorized codes, arXiv:2306.06546 §3.2).

Gradient. A straight-through step around each stage would multiply the gradient by N. If stages have no
projections, the estimator is therefore applied once, around the whole stack, with gain 1. If they have
projections, the gradient is that of the chain in which each quantization step is the identity, I - Π(I - P_n)
with P_n = out_n in_n. For orthogonal projections P_n its gain is at most 2, and at most 1 if they commute.
Stages with `own_gradient` form the same chain with the gradients of their values, which is the exact
derivative. Losses are computed on residuals with detached earlier values; in the code of encodec and
audiocraft, the commitment loss of stages 2 to N has no gradient at all.

Training values. If they differ from decoded values (noise substitution), the last active stage of an item
returns its training values v_n, the earlier stages return decoded ones, and each stage quantizes the residual
of decoded values. Codes thus equal those of `encode`, and the error of Σ q_k + v_n is that of stage n, as in
NSVQ (doi:10.1109/ACCESS.2022.3147670): z + |z - Σ q| u.

Strides. A stage of stride s (SNAC, arXiv:2410.14411) quantizes the mean residual of each block of s frames,
and its value applies to all frames of the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.api.code_tables import CodeTables
from codecvq.api.reach import Reach
from codecvq.quantizer.author import Quantizer
from codecvq.quantizer.beam import beam_search
from codecvq.quantizer.dropout import active_mask, check_dropout, draw_depths, rows_by_codebook, scatter_rows
from codecvq.quantizer.engine import Context, Step, Update
from codecvq.quantizer.frames import Blocks, Frames
from codecvq.quantizer.results import Terms
from codecvq.quantizer.stages import (
    check_beam,
    check_stages,
    check_strides,
    combined_block_reach,
    combined_reach,
)
from codecvq.quantizer.tables import join_tables


class Residual(Quantizer):
    """Residual quantizer: a stack of stages, of which the first n codebooks can always be decoded alone.

    With quantizer dropout, codes of inactive stages are 0, and affect no value, loss or codebook.

    Args:
        dim: Number of latent channels D.
        stages: N quantizers with one codebook each, or a single one that all N stages share.
        num_codebooks: N, needed if the stages share one quantizer.
        strides: Number of frames per code of each stage, by default 1.
        dropout: Probability that a batch item uses only its first n codebooks in training.
        dropout_depths: n is drawn uniformly from these numbers, by default from 1 … N.
        beam: Number of partial sums that the search extends at each stage, in eval mode and in `encode`. 1 is
            the greedy search, which training always uses. Above 1, stages must implement `candidates`.
    """

    prefix_decodable = True

    def __init__(
        self,
        dim: int,
        stages: Sequence[Quantizer],
        *,
        num_codebooks: int | None = None,
        strides: Sequence[int] = (),
        dropout: float = 0.0,
        dropout_depths: Sequence[int] = (),
        beam: int = 1,
    ) -> None:
        first = stages[0]
        count = len(stages) if num_codebooks is None else num_codebooks
        check_stages(stages)
        check_dropout(dropout, dropout_depths, count)
        check_strides(strides, count)
        check_beam(beam, stages, strides)
        sizes = [stages[i % len(stages)].codebook_sizes[0] for i in range(count)]
        inner = first.dim if first.refines else dim
        self.own_gradient = any(stage.own_gradient for stage in stages)
        self.uses_partial_sum = any(stage.uses_partial_sum for stage in stages)
        self.training_values_differ = any(stage.training_values_differ for stage in stages)
        estimator = None if self.own_gradient else first.estimator
        super().__init__(dim, sizes, code_dim=inner, estimator=estimator)
        self._strides = tuple(strides) or (1,) * count
        self.stages = nn.ModuleList(stages)
        reaches = [stages[n % len(stages)].reach for n in range(count)]
        self.reach = combined_reach(reaches, self._strides)
        self._block_reach = combined_block_reach(reaches, self._strides)
        self.dropout, self.dropout_depths, self.beam = dropout, tuple(dropout_depths), beam
        self.stages_project = not first.refines and any(stage.dim != stage.code_dim for stage in stages)

    @property
    def strides(self) -> tuple[int, ...]:
        """Number of frames per code of each stage."""
        return self._strides

    @property
    def block_reach(self) -> Reach:
        """Left context and lookahead of a block of lcm(strides) frames."""
        return self._block_reach

    def code_tables(self) -> CodeTables | None:
        """Return the tables of all stages, one after another."""
        return join_tables(self.stage(n) for n in range(self.num_codebooks))

    @property
    def code_levels(self) -> tuple[tuple[int, ...], ...]:
        """Digits of the codes of each stage."""
        return tuple(self.stage(n).code_levels[0] for n in range(self.num_codebooks))

    def stage(self, n: int) -> Quantizer:
        """Return the quantizer of codebook n; stages may share one."""
        stage = self.stages[n % len(self.stages)]
        assert isinstance(stage, Quantizer), "stages are quantizers"
        return stage

    def bound(self, vectors: Tensor) -> Tensor:
        """Apply the bound of a fixed grid, once around all stages; the identity if each stage has its own."""
        return self.stage(0).bound(vectors) if self.stage(0).refines else vectors

    def to_stage_space(self, n: int, residual: Tensor) -> Tensor:
        """Map a residual to the space and scale of stage n: `[M, D]` -> `[M, D of the stage]`."""
        return (
            residual / self.stage(n).stage_scale(n)
            if self.stage(n).refines
            else self.stage(n).to_code_space(residual)
        )

    def from_stage_space(self, n: int, values: Tensor) -> Tensor:
        """Map values of stage n to what they add to the sum: `[M, D of the stage]` -> `[M, D]`."""
        stage = self.stage(n)
        return values * stage.stage_scale(n) if stage.refines else stage.project_out(values)

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Quantize vectors that are the frames of one batch item: `[M, D]` -> `[M, D]`, `[M, N]`."""
        return self.quantize_with_context(vectors, Context.of_one_item(len(vectors), vectors.device))

    def dequantize(self, codes: Tensor) -> Tensor:
        """Look up the values of codes of one batch item's frames: `[M, n]` -> `[M, D]`."""
        return self.dequantize_with_context(codes, Context.of_one_item(len(codes), codes.device))

    def quantize_with_context(self, vectors: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Return values and codes of all stages: `[M, D]` after `bound` -> `[M, D]`, `[M, N]`."""
        codes = self.choose(vectors, context, self.num_codebooks)
        return self.dequantize_with_context(codes, context), codes

    def choose(
        self, vectors: Tensor, context: Context, depth: int, active: Sequence[Tensor | slice] | None = None
    ) -> Tensor:
        """Return the codes of the first `depth` stages: `[M, D]` after `bound` -> `[M, depth]`.

        Quantizers with an exact expansion override it.

        `active` lists the vectors on which each stage is active, with quantizer dropout (None: all). A stage
        gets no other vectors, not even to initialize its codebook; their codes are 0.
        """
        if self.beam > 1 and not self.training:
            # always search all stages, so that fewer codebooks are a prefix of all
            return beam_search(self, vectors, self.beam)[:, :depth]
        codes, residual = [], vectors
        total = torch.zeros_like(vectors) if self.uses_partial_sum else vectors  # a placeholder if unused
        for n, rows in enumerate([slice(None)] * depth if active is None else active):
            view = self._view(n, context, rows, total)
            values, code = self.stage(n).quantize_with_context(
                self.to_stage_space(n, view.mean(residual)), view.context
            )
            part = view.scatter(self.from_stage_space(n, values))
            residual = residual - part
            if self.uses_partial_sum:
                total = total + part
            codes.append(view.scatter(code))
        return torch.cat(codes, dim=1)

    def dequantize_with_context(self, codes: Tensor, context: Context) -> Tensor:
        """Return the sum of the stages' values: `[M, n]` -> `[M, D]`, n at most N."""
        total = torch.zeros(len(codes), self.code_dim, device=codes.device)
        # in the order of training: floating-point addition is not associative
        for n in range(codes.shape[1]):
            view = self._view(n, context, slice(None), total)
            values = self.stage(n).dequantize_with_context(view.first_rows(codes[:, n : n + 1]), view.context)
            part = view.scatter(self.from_stage_space(n, values))
            # not in place if stages use the partial sum, since they may store it
            total = total + part if self.uses_partial_sum else total.add_(part)
        return total

    def vectors_to_codes(self, vectors: Tensor, context: Context, depth: int) -> Tensor:
        """Return the codes of the first `depth` stages: `[M, D]` -> `[M, depth]`."""
        return self.choose(self.to_code_space(vectors), context, depth)

    def step(self, vectors: Tensor, context: Context, depth: int) -> Step:
        """Run the first `depth` stages; the module's docstring explains the gradient."""
        entered = self.to_code_space(vectors)
        active = self.active_rows(context.frames, depth)
        codes: Tensor | None = None
        if not self._stages_give_values:
            with torch.no_grad():
                codes = self.choose(entered.detach(), context, depth, active)
        last_stages = self._last_stages(active, entered) if self.training_values_differ else None
        total, chain, residual = torch.zeros_like(entered), entered, entered
        results: list[_StageResult] = []
        for n, rows in enumerate(active):  # also without rows: other processes may have some
            view = self._view(n, context, rows, total)
            code = None if codes is None else view.first_rows(codes[:, n : n + 1])
            last = None if last_stages is None else view.first_rows(last_stages == n)
            stage_residual = view.mean(residual)
            stage_chain = view.mean(chain) if self._is_chained and chain is not residual else stage_residual
            results.append(self._stage_step(n, view, stage_chain, stage_residual, code, last).scatter(view))
            added = results[-1].added
            total, residual = total + added, residual - added.detach()
            if self._is_chained:
                chain = chain - added
        if not self._is_chained:
            total = self.apply_estimator(entered, total)
        return Step(
            self.project_out(total),
            torch.cat([each.codes for each in results], dim=1),
            _mean_terms([each.terms for each in results], depth),
            [update for each in results for update in each.updates],
            active_mask(active, len(entered)),
            self._parts(results) if context.parts else None,
        )

    @property
    def _is_chained(self) -> bool:
        """Whether the gradient passes through each stage instead of once around all stages."""
        return self.stages_project or self.own_gradient

    @property
    def _stages_give_values(self) -> bool:
        """Whether stages return codes and values together, in one call."""
        return self.own_gradient or (self.training and self.training_values_differ)

    def _stage_step(
        self,
        n: int,
        view: _StageView,
        chain: Tensor,
        residual: Tensor,
        codes: Tensor | None,
        last: Tensor | None,
    ) -> _StageResult:
        """Run stage n on the vectors of its view.

        Args:
            n: Number of the stage.
            view: Its view of the M vectors.
            chain: Residual with the gradient of earlier stages, `[m, D]`.
            residual: The same values with earlier stages detached, `[m, D]`.
            codes: Codes `[m, 1]` if they are chosen already, or None.
            last: bool `[m, 1]`, True if this is the last active stage of a vector, or None.
        """
        stage, context = self.stage(n), view.context
        detached = self.to_stage_space(n, residual)
        entered = self.to_stage_space(n, chain) if self._is_chained and chain is not residual else detached
        differs = self.training and stage.training_values_differ
        if stage.own_gradient or differs:
            values, codes = stage.quantize_with_context(entered if stage.own_gradient else detached, context)
        else:
            if codes is None:
                with torch.no_grad():
                    codes = stage.quantize_with_context(detached, context)[1]
            values = stage.dequantize_with_context(codes, context)
        terms = stage.terms_of(detached, values, codes)
        if differs and last is not None:
            values = torch.where(last, values, stage.dequantize_with_context(codes, context))
        passed = stage.apply_estimator(entered, values) if self._is_chained else values
        added, part = self.from_stage_space(n, passed), None
        if context.parts:
            part = (
                added
                if stage.own_gradient
                else self.from_stage_space(n, stage.apply_estimator(detached, values))
            )
        return _StageResult(added, part, codes, terms, stage.updates_of(detached, codes))

    def _view(self, n: int, context: Context, rows: Tensor | slice, total: Tensor) -> _StageView:
        """Return the view of stage n: the vectors at `rows`, or their blocks."""
        part = (replace(context, partial_sum=total) if self.uses_partial_sum else context).select(rows)
        if self._strides[n] == 1:
            return _StageView(part, rows, len(total), None)
        blocks = part.frames.blocks(self._strides[n])
        partial_sum = None if part.partial_sum is None else blocks.mean(part.partial_sum)
        return _StageView(
            replace(part, frames=blocks.frames, partial_sum=partial_sum), rows, len(total), blocks
        )

    def _parts(self, results: Sequence[_StageResult]) -> tuple[Tensor, ...]:
        """Return what each stage adds to the latents, `[M, D]` each.

        The bias of the projection is in the first part.
        """
        parts = [each.part for each in results if each.part is not None]
        if not isinstance(self.project_out, nn.Linear):
            return tuple(parts)
        first, weight = self.project_out(parts[0]), self.project_out.weight
        return (first, *(F.linear(part, weight) for part in parts[1:]))

    def _last_stages(self, active: Sequence[Tensor | slice], entered: Tensor) -> Tensor:
        """Return the last active stage of each of the vectors `[M, D]`: int64 `[M, 1]`."""
        matrix = active_mask(active, len(entered))
        if matrix is None:
            return torch.full((len(entered), 1), len(active) - 1, device=entered.device)
        return matrix.sum(dim=1, keepdim=True) - 1

    def active_rows(self, frames: Frames, depth: int) -> list[Tensor | slice]:
        """Return the indices of the vectors on which each of the first `depth` stages is active.

        A slice means all vectors: there is no quantizer dropout.
        """
        if not self.training or self.dropout == 0:
            return [slice(None)] * depth
        return rows_by_codebook(self.draw_depths(frames.count, depth), frames, depth)

    def draw_depths(self, count: int, depth: int) -> Tensor:
        """Draw the dropout depth of each of `count` batch items: `[B]`."""
        return draw_depths(count, depth, self.dropout, self.dropout_depths, self.generator)


@dataclass(frozen=True)
class _StageView:
    """The input of a stage out of M vectors: those at `rows`, or their blocks."""

    context: Context
    rows: Tensor | slice
    count: int  # M
    blocks: Blocks | None  # None: stride 1

    def mean(self, vectors: Tensor) -> Tensor:
        """Return the vectors of the stage: `[M, D]` -> `[m, D]`, averaged over blocks."""
        selected = vectors if isinstance(self.rows, slice) else vectors[self.rows]
        return selected if self.blocks is None else self.blocks.mean(selected)

    def first_rows(self, rows: Tensor) -> Tensor:
        """Return the rows of the stage, which are equal within blocks: `[M, X]` -> `[m, X]`."""
        selected = rows if isinstance(self.rows, slice) else rows[self.rows]
        return selected if self.blocks is None else self.blocks.first_rows(selected)

    def scatter(self, rows: Tensor) -> Tensor:
        """Scatter rows of the stage to all vectors, zeros elsewhere: `[m, X]` -> `[M, X]`."""
        return scatter_rows(self.rows, rows if self.blocks is None else self.blocks.repeat(rows), self.count)


@dataclass(frozen=True)
class _StageResult:
    """Result of a stage for the vectors of its view."""

    added: Tensor  # [m, D] in the space of the stack
    part: Tensor | None  # [m, D] the same value with its own gradient; None: not requested
    codes: Tensor  # [m, 1]
    terms: Terms
    updates: list[Update]

    def scatter(self, view: _StageView) -> _StageResult:
        """Scatter the result to all M vectors, zeros elsewhere."""
        part = None if self.part is None else view.scatter(self.part)
        return replace(self, added=view.scatter(self.added), part=part, codes=view.scatter(self.codes))


def _mean_terms(terms: list[Terms], depth: int) -> Terms:
    """Average losses over the stages, so that weights do not depend on depth; name metrics "name/stage"."""
    losses: dict[str, Tensor] = {}
    metrics: dict[str, Tensor] = {}
    for n, term in enumerate(terms):
        for name, loss in term.losses.items():
            losses[name] = losses.get(name, 0.0) + loss / depth
        metrics |= {f"{name}/{n}": value for name, value in term.metrics.items()}
    return Terms(losses, metrics)

"""`Residual`: any quantizer in stages, each quantizing what the ones before it left over.

Two kinds of stages. A quantizer on a fixed grid (`refines = True`: FSQ, LFQ) refines one vector: it is
projected and bounded once, and stage n works on a grid finer by `stage_scale(n)`. A quantizer that learns its
codebook (VQ, SimVQ) gives every stage a codebook and, where the code has its own dimension, projections of
its own (factorised codes, arXiv:2306.06546 §3.2).

The gradient. A straight-through step around each stage multiplies it by N. Where stages have no projections
the estimator works once, around the whole stack: gain 1. Where they have, the gradient is that of the chain
in which every choice is the identity, I - Π(I - P_n) with P_n = out_n in_n: again not more than 1 where the
P_n are projections. Stages with `own_gradient` form the same chain with the gradients that their values
carry: it is the derivative of what is computed. Losses see residuals whose past choices carry no gradient;
in encodec's and audiocraft's code the commitment loss of stages 2 to N has none at all.

Training values. Where they differ from decoded ones (noise substitution), the last stage that an item keeps
gives its training values v_n, the stages before it decoded ones, and each stage quantizes what decoded values
leave over. So codes are those of `encode`, and the error of Σ q_k + v_n is that of stage n, as in NSVQ
(doi:10.1109/ACCESS.2022.3147670): z + |z - Σ q| u.

Strides. A stage of stride s (SNAC, arXiv:2410.14411) quantizes the mean of what is left over in each block
of s frames, and its value counts for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.api.code_tables import CodeTables
from codecvq.quantizer.author import Quantizer
from codecvq.quantizer.beam import beam_search
from codecvq.quantizer.dropout import active_mask, check_dropout, draw_depths, rows_by_codebook, scatter_rows
from codecvq.quantizer.engine import Context, Step, Update
from codecvq.quantizer.frames import Blocks, Frames
from codecvq.quantizer.results import Terms
from codecvq.quantizer.stages import check_beam, check_stages, check_strides, combined_reach
from codecvq.quantizer.tables import join_tables


class Residual(Quantizer):
    """A stack of `stages`; the first n codebooks are a prefix of all N at any time.

    Args: `dim` is D of the latents; `stages` N plain quantizers, or one that serves all N (`num_codebooks`);
    `strides` how many frames one code of each stage stands for, by default 1; `dropout` the probability that
    an item in training keeps only its first n codebooks, n uniform in `dropout_depths`, by default 1 … N;
    codes of dropped stages are 0 and touch nothing: no value, no loss, no codebook. `beam` how many partial
    sums are kept from stage to stage in eval and `encode`, where stages list candidates: 1 is the nearest
    codeword at each stage, which is what training does.
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
        self.reach = combined_reach([stages[n % len(stages)].reach for n in range(count)], self._strides)
        self.dropout, self.dropout_depths, self.beam = dropout, tuple(dropout_depths), beam
        self.stages_project = not first.refines and any(stage.dim != stage.code_dim for stage in stages)

    @property
    def strides(self) -> tuple[int, ...]:
        """How many frames one code of each stage stands for."""
        return self._strides

    def code_tables(self) -> CodeTables | None:
        """Those of all stages."""
        return join_tables(self.stage(n) for n in range(self.num_codebooks))

    def stage(self, n: int) -> Quantizer:
        """The quantizer of codebook n; the same for all where they share one."""
        stage = self.stages[n % len(self.stages)]
        assert isinstance(stage, Quantizer), "stages are quantizers"
        return stage

    def bound(self, vectors: Tensor) -> Tensor:
        """The bound of a fixed grid, once around all stages; nothing where each stage has its own."""
        return self.stage(0).bound(vectors) if self.stage(0).refines else vectors

    def to_stage_space(self, n: int, residual: Tensor) -> Tensor:
        """What is left, in the space and on the scale of stage n: `[M, D]` -> `[M, D of the stage]`."""
        return (
            residual / self.stage(n).stage_scale(n)
            if self.stage(n).refines
            else self.stage(n).to_code_space(residual)
        )

    def from_stage_space(self, n: int, values: Tensor) -> Tensor:
        """What the values of stage n add to the sum: `[M, D of the stage]` -> `[M, D]`."""
        stage = self.stage(n)
        return values * stage.stage_scale(n) if stage.refines else stage.project_out(values)

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Values and codes of vectors that are the frames of one item: `[M, D]` -> `[M, D]`, `[M, N]`."""
        return self.quantize_with_context(vectors, Context.of_one_item(len(vectors), vectors.device))

    def dequantize(self, codes: Tensor) -> Tensor:
        """Values of codes that are the frames of one item: `[M, n]` -> `[M, D]`."""
        return self.dequantize_with_context(codes, Context.of_one_item(len(codes), codes.device))

    def quantize_with_context(self, vectors: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Values and codes of all stages: `[M, D]` after `bound` -> `[M, D]`, `[M, N]`."""
        codes = self.choose(vectors, context, self.num_codebooks)
        return self.dequantize_with_context(codes, context), codes

    def choose(
        self, vectors: Tensor, context: Context, depth: int, active: Sequence[Tensor | slice] | None = None
    ) -> Tensor:
        """Codes of the first `depth` stages: `[M, D]` after `bound` -> `[M, depth]`. A method with an exact
        expansion overrides it.

        `kept` is which vectors each stage has to itself, with quantizer dropout (None: all). A stage sees no
        others, not even to begin its codebook where they are; their codes are 0.
        """
        if self.beam > 1 and not self.training:
            return beam_search(self, vectors, self.beam)[:, :depth]  # of the whole search, so a prefix
        codes, residual = [], vectors
        total = torch.zeros_like(vectors) if self.uses_partial_sum else vectors  # of no use otherwise
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
        """The sum of the stages' values: `[M, n]`, n at most N -> `[M, D]`."""
        total = torch.zeros(len(codes), self.code_dim, device=codes.device)
        for n in range(codes.shape[1]):  # in the order of training: float addition is not associative
            view = self._view(n, context, slice(None), total)
            values = self.stage(n).dequantize_with_context(view.first_rows(codes[:, n : n + 1]), view.context)
            part = view.scatter(self.from_stage_space(n, values))
            total = (
                total + part if self.uses_partial_sum else total.add_(part)
            )  # a stage may keep what it saw
        return total

    def vectors_to_codes(self, vectors: Tensor, context: Context, depth: int) -> Tensor:
        """Codes of the first `depth` stages: `[M, D]` -> `[M, depth]`."""
        return self.choose(self.to_code_space(vectors), context, depth)

    def step(self, vectors: Tensor, context: Context, depth: int) -> Step:
        """One pass through the first `depth` stages; for its gradient see the module's docstring."""
        entered = self.to_code_space(vectors)
        active = self.active_rows(context.frames, depth)
        codes: Tensor | None = None
        if not self._stages_give_values:
            with torch.no_grad():
                codes = self.choose(entered.detach(), context, depth, active)
        last_stages = self._last_stages(active, entered) if self.training_values_differ else None
        total, chain, residual = torch.zeros_like(entered), entered, entered
        results: list[_StageResult] = []
        for n, rows in enumerate(active):  # also where no row is left: other processes may have some
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
        """Whether the gradient goes through each stage, not once around them all."""
        return self.stages_project or self.own_gradient

    @property
    def _stages_give_values(self) -> bool:
        """Whether stages choose their codes as they give values, each in one call."""
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
        """Stage n on the vectors that it sees. `chain` and `rest` are equal in value, not in gradient;
        `codes` are chosen already, or None; `last` `[m, 1]` says which items end with this stage, or None.
        """
        stage, context = self.stage(n), view.context
        seen = self.to_stage_space(n, residual)
        entered = self.to_stage_space(n, chain) if self._is_chained and chain is not residual else seen
        differs = self.training and stage.training_values_differ
        if stage.own_gradient or differs:
            values, codes = stage.quantize_with_context(entered if stage.own_gradient else seen, context)
        else:
            if codes is None:
                with torch.no_grad():
                    codes = stage.quantize_with_context(seen, context)[1]
            values = stage.dequantize_with_context(codes, context)
        terms = stage.terms_of(seen, values, codes)
        if differs and last is not None:
            values = torch.where(last, values, stage.dequantize_with_context(codes, context))
        passed = stage.apply_estimator(entered, values) if self._is_chained else values
        added, part = self.from_stage_space(n, passed), None
        if context.parts:
            part = (
                added if stage.own_gradient else self.from_stage_space(n, stage.apply_estimator(seen, values))
            )
        return _StageResult(added, part, codes, terms, stage.updates_of(seen, codes))

    def _view(self, n: int, context: Context, rows: Tensor | slice, total: Tensor) -> _StageView:
        """What stage n sees: the vectors at `rows`, or the blocks of them."""
        part = (replace(context, partial_sum=total) if self.uses_partial_sum else context).select(rows)
        if self._strides[n] == 1:
            return _StageView(part, rows, len(total), None)
        blocks = part.frames.blocks(self._strides[n])
        partial_sum = None if part.partial_sum is None else blocks.mean(part.partial_sum)
        return _StageView(
            replace(part, frames=blocks.frames, partial_sum=partial_sum), rows, len(total), blocks
        )

    def _parts(self, results: Sequence[_StageResult]) -> tuple[Tensor, ...]:
        """What each stage adds to the latents, the bias of the projection with the first: `[M, D]` each."""
        parts = [each.part for each in results if each.part is not None]
        if not isinstance(self.project_out, nn.Linear):
            return tuple(parts)
        first, weight = self.project_out(parts[0]), self.project_out.weight
        return (first, *(F.linear(part, weight) for part in parts[1:]))

    def _last_stages(self, active: Sequence[Tensor | slice], entered: Tensor) -> Tensor:
        """The last stage that each of the vectors `[M, D]` has: int64 `[M, 1]`."""
        matrix = active_mask(active, len(entered))
        if matrix is None:
            return torch.full((len(entered), 1), len(active) - 1, device=entered.device)
        return matrix.sum(dim=1, keepdim=True) - 1

    def active_rows(self, frames: Frames, depth: int) -> list[Tensor | slice]:
        """Which vectors each of the first `depth` stages sees: all, but for quantizer dropout."""
        if not self.training or self.dropout == 0:
            return [slice(None)] * depth
        return rows_by_codebook(self.draw_depths(frames.count, depth), frames, depth)

    def draw_depths(self, count: int, depth: int) -> Tensor:
        """How many stages each of `count` items keeps: `[B]`."""
        return draw_depths(count, depth, self.dropout, self.dropout_depths, self.generator)


@dataclass(frozen=True)
class _StageView:
    """The vectors that a stage sees of all M: those at `rows`, or their blocks."""

    context: Context
    rows: Tensor | slice
    count: int  # M
    blocks: Blocks | None  # None: the vectors themselves

    def mean(self, vectors: Tensor) -> Tensor:
        """What the stage sees of vectors: `[M, D]` -> `[m, D]`."""
        seen = vectors if isinstance(self.rows, slice) else vectors[self.rows]
        return seen if self.blocks is None else self.blocks.mean(seen)

    def first_rows(self, rows: Tensor) -> Tensor:
        """Rows that are equal within blocks, as the stage sees them: `[M, X]` -> `[m, X]`."""
        seen = rows if isinstance(self.rows, slice) else rows[self.rows]
        return seen if self.blocks is None else self.blocks.first_rows(seen)

    def scatter(self, rows: Tensor) -> Tensor:
        """Rows of the stage in their places, 0 elsewhere: `[m, X]` -> `[M, X]`."""
        return scatter_rows(self.rows, rows if self.blocks is None else self.blocks.repeat(rows), self.count)


@dataclass(frozen=True)
class _StageResult:
    """What a stage makes of the vectors that it sees."""

    added: Tensor  # [m, D] in the space of the stack
    part: Tensor | None  # [m, D] the same with the gradient that it has alone; None: not asked for
    codes: Tensor  # [m, 1]
    terms: Terms
    updates: list[Update]

    def scatter(self, view: _StageView) -> _StageResult:
        """The same for all M vectors, 0 where the stage does not see them."""
        part = None if self.part is None else view.scatter(self.part)
        return replace(self, added=view.scatter(self.added), part=part, codes=view.scatter(self.codes))


def _mean_terms(terms: list[Terms], depth: int) -> Terms:
    """Losses as means over the stages, so that a weight means the same at any depth; metrics under
    "name/stage".
    """
    losses: dict[str, Tensor] = {}
    metrics: dict[str, Tensor] = {}
    for n, term in enumerate(terms):
        for name, loss in term.losses.items():
            losses[name] = losses.get(name, 0.0) + loss / depth
        metrics |= {f"{name}/{n}": value for name, value in term.metrics.items()}
    return Terms(losses, metrics)

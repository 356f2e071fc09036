"""`Residual`: any quantizer in stages, each quantizing what the ones before it left over.

Two kinds of stages. A quantizer on a fixed grid (`refines = True`: FSQ, LFQ) refines one vector: it is
projected and bounded once, and stage n works on a grid finer by `stage_scale(n)`. A quantizer that learns its
codebook (VQ, SimVQ) gives every stage a codebook and, where the code has its own dimension, projections of
its own (factorised codes, arXiv:2306.06546 §3.2).

The gradient. A straight-through step around each stage multiplies it by N. Where stages have no projections
the estimator works once, around the whole stack: gain 1. Where they have, the gradient is that of the chain
in which every choice is the identity, I - Π(I - P_n) with P_n = out_n in_n: again not more than 1 where the
P_n are projections. Losses see residuals whose past choices carry no gradient; in encodec's and audiocraft's
code the commitment loss of stages 2 to N has none at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codecvq.errors import OptionError
from codecvq.quantizer.beam import beam_search
from codecvq.quantizer.dropout import check_dropout, drawn_depths, in_rows, kept_of, rows_of
from codecvq.quantizer.estimators import estimate
from codecvq.quantizer.interface import Quantizer, Step, Terms, Update
from codecvq.quantizer.rows import Items


class Residual(Quantizer):
    """A stack of `stages`; the first n codebooks are a prefix of all N at any time.

    Args: `dim` is D of the latents; `stages` N plain quantizers, or one that serves all N (`num_codebooks`);
    `dropout` the probability that an item in training keeps only its first n codebooks, n uniform in
    `dropout_depths`, by default 1 … N; codes of dropped stages are 0 and touch nothing: no value, no loss, no
    codebook. `beam` how many partial sums are kept from stage to stage in eval and `encode`, where stages
    list candidates: 1 is the nearest codeword at each stage, which is what training does.
    """

    prefix_decodable = True

    def __init__(
        self,
        dim: int,
        stages: Sequence[Quantizer],
        *,
        num_codebooks: int | None = None,
        dropout: float = 0.0,
        dropout_depths: Sequence[int] = (),
        beam: int = 1,
    ) -> None:
        first = stages[0]
        count = len(stages) if num_codebooks is None else num_codebooks
        counts = [stage.num_codebooks for stage in stages]
        if any(each != 1 for each in counts):
            raise OptionError(
                f"a residual stage has one codebook, and these have {counts}. "
                "Take stages of one codebook each, and put groups outside: grouped_residual_X."
            )
        check_dropout(dropout, dropout_depths, count)
        _check_beam(beam, stages)
        sizes = [stages[i % len(stages)].codebook_sizes[0] for i in range(count)]
        inner = first.dim if first.refines else dim
        super().__init__(dim, sizes, code_dim=inner, estimator=first.estimator)
        self.stages = nn.ModuleList(stages)
        self.dropout, self.dropout_depths, self.beam = dropout, tuple(dropout_depths), beam
        self.stages_project = not first.refines and any(stage.dim != stage.code_dim for stage in stages)

    def stage(self, n: int) -> Quantizer:
        """The quantizer of codebook n; the same for all where they share one."""
        stage = self.stages[n % len(self.stages)]
        assert isinstance(stage, Quantizer), "stages are quantizers"
        return stage

    def bound(self, vectors: Tensor) -> Tensor:
        """The bound of a fixed grid, once around all stages; nothing where each stage has its own."""
        return self.stage(0).bound(vectors) if self.stage(0).refines else vectors

    def enter_stage(self, n: int, rest: Tensor) -> Tensor:
        """What is left, in the space and on the scale of stage n: `[M, D]` -> `[M, D of the stage]`."""
        return rest / self.stage(n).stage_scale(n) if self.stage(n).refines else self.stage(n).enter(rest)

    def leave_stage(self, n: int, values: Tensor) -> Tensor:
        """What the values of stage n add to the sum: `[M, D of the stage]` -> `[M, D]`."""
        stage = self.stage(n)
        return values * stage.stage_scale(n) if stage.refines else stage.project_out(values)

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Values and codes of all stages: `[M, D]` after `bound` -> `[M, D]`, `[M, N]`."""
        codes = self.choose(vectors, self.num_codebooks)
        return self.dequantize(codes), codes

    def choose(self, vectors: Tensor, depth: int, kept: Sequence[Tensor | slice] | None = None) -> Tensor:
        """Codes of the first `depth` stages: `[M, D]` after `bound` -> `[M, depth]`. A method with an exact
        expansion overrides it.

        `kept` is which vectors each stage has to itself, with quantizer dropout (None: all). A stage sees no
        others, not even to begin its codebook where they are; their codes are 0.
        """
        if self.beam > 1 and not self.training:
            return beam_search(self, vectors, self.beam)[:, :depth]  # of the whole search, so a prefix
        codes, rest = [], vectors
        for n, rows in enumerate([slice(None)] * depth if kept is None else kept):
            values, code = self.stage(n).quantize(self.enter_stage(n, rest[rows]))
            rest = rest - in_rows(rows, self.leave_stage(n, values), len(rest))
            codes.append(in_rows(rows, code, len(rest)))
        return torch.cat(codes, dim=1)

    def dequantize(self, codes: Tensor) -> Tensor:
        """The sum of the stages' values: `[M, n]`, n at most N -> `[M, D]`."""
        parts = [
            self.leave_stage(n, self.stage(n).dequantize(codes[:, n : n + 1])) for n in range(codes.shape[1])
        ]
        return _sum(parts)

    def _vectors_to_codes(self, vectors: Tensor, depth: int) -> Tensor:
        return self.choose(self.enter(vectors), depth)

    def _step(self, vectors: Tensor, items: Items, depth: int) -> Step:
        entered = self.enter(vectors)
        kept = self._kept_rows(items, depth)
        with torch.no_grad():
            codes = self.choose(entered.detach(), depth, kept)
        total, chain, rest = torch.zeros_like(entered), entered, entered
        terms: list[Terms] = []
        updates: list[Update] = []
        for n, rows in enumerate(kept):  # also where no row is left: other processes may have some
            code = codes[rows, n : n + 1]
            part, seen, term = self._stage_step(n, chain[rows], rest[rows], code)
            whole = in_rows(rows, part, len(total))
            total = total + whole
            chain = chain - whole
            rest = rest - whole.detach()
            terms.append(term)
            updates += self.stage(n).updates(seen, code)
        if not self.stages_project:
            total = estimate(self._estimator, entered, total, self._watch if self.training else None)
        terms_of_all = _mean_terms(terms, depth)
        return Step(self.project_out(total), codes, terms_of_all, updates, kept_of(kept, len(codes)))

    def _stage_step(self, n: int, chain: Tensor, rest: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Terms]:
        """What stage n adds, the vectors it saw, and its terms. `chain` and `rest` are equal in value, not in
        gradient.
        """
        stage = self.stage(n)
        seen = self.enter_stage(n, rest)
        values = stage.dequantize(codes)
        terms = stage.terms_of(seen, values, codes)
        if self.stages_project:
            entered = self.enter_stage(n, chain)
            values = estimate(stage._estimator, entered, values, stage._watch if self.training else None)
        return self.leave_stage(n, values), seen, terms

    def _kept_rows(self, items: Items, depth: int) -> list[Tensor | slice]:
        """Which vectors each of the first `depth` stages sees: all, but for quantizer dropout."""
        if not self.training or self.dropout == 0:
            return [slice(None)] * depth
        return rows_of(self._draw_depths(items.count, depth), items, depth)

    def _draw_depths(self, count: int, depth: int) -> Tensor:
        """How many stages each of `count` items keeps: `[B]`."""
        return drawn_depths(count, depth, self.dropout, self.dropout_depths, self.generator)


def _check_beam(beam: int, stages: Sequence[Quantizer]) -> None:
    if not isinstance(beam, int) or beam < 1:
        raise OptionError(f"beam is {beam!r}; needed is a whole number from 1 up")
    if beam > 1 and any(type(stage).candidates is Quantizer.candidates for stage in stages):
        raise OptionError(
            f"beam is {beam}, and {type(stages[0]).__name__} lists no candidates to search. "
            "Leave beam at 1, or define candidates(vectors, count)."
        )


def _sum(parts: list[Tensor]) -> Tensor:
    total = torch.zeros_like(parts[0])
    for part in parts:  # in the order of the stages, as in training: float addition is not associative
        total = total + part
    return total


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

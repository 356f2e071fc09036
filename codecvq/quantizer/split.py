"""`Split`, a semantic and an acoustic quantizer for the same latents (Mimi, arXiv:2410.00037 §3.3.2).

Both quantize the latents themselves instead of a residual, and their values add up. The semantic codebook
thus need not reconstruct the signal, and a distillation loss can train it alone. Its codes come first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codecvq.api.code_tables import CodeTables
from codecvq.api.reach import Reach, widest
from codecvq.errors import OptionError, ShapeError
from codecvq.quantizer.author import Quantizer
from codecvq.quantizer.engine import Context, Step
from codecvq.quantizer.grouped import active_codes, reject_variable_depth
from codecvq.quantizer.results import Terms
from codecvq.quantizer.tables import join_tables


class Split(Quantizer):
    """Semantic and acoustic quantizer of the same `dim`, whose values add up.

    The first n codebooks can be decoded alone if the acoustic quantizer is `prefix_decodable` and n is at
    least the number of semantic codebooks. Quantizer dropout belongs to the acoustic quantizer, so the
    semantic codebooks are always active. Losses are means over all codebooks.
    """

    def __init__(self, semantic: Quantizer, acoustic: Quantizer) -> None:
        parts = (semantic, acoustic)
        if semantic.dim != acoustic.dim:
            raise OptionError(
                f"split: the semantic part has dim {semantic.dim} and the acoustic part {acoustic.dim}; they "
                "must be equal."
            )
        reject_variable_depth(parts)
        self.own_gradient = any(part.own_gradient for part in parts)
        self.training_values_differ = any(part.training_values_differ for part in parts)
        sizes = (*semantic.codebook_sizes, *acoustic.codebook_sizes)
        super().__init__(semantic.dim, sizes, estimator=None if self.own_gradient else semantic.estimator)
        self.reach = widest([part.reach for part in parts])
        self.semantic, self.acoustic = semantic, acoustic
        self.prefix_decodable = acoustic.prefix_decodable

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the semantic codebooks, then of the acoustic ones."""
        return (*self.semantic.strides, *self.acoustic.strides)

    @property
    def block_reach(self) -> Reach:
        """Left context and lookahead of a block of lcm(strides) frames."""
        return widest([self.semantic.block_reach, self.acoustic.block_reach])

    def code_tables(self) -> CodeTables | None:
        """Return the tables of the semantic codebooks, then of the acoustic ones."""
        return join_tables((self.semantic, self.acoustic))

    @property
    def code_levels(self) -> tuple[tuple[int, ...], ...]:
        """Digits of the codes of the semantic codebooks, then of the acoustic ones."""
        return (*self.semantic.code_levels, *self.acoustic.code_levels)

    def vectors_to_codes(self, vectors: Tensor, context: Context, depth: int) -> Tensor:
        """Return the codes of both parts: `[M, D]` -> `[M, depth]`."""
        parts = self._parts_of(depth)
        return torch.cat([part.vectors_to_codes(vectors, context, count) for part, count in parts], dim=1)

    def codes_to_vectors(self, codes: Tensor, context: Context) -> Tensor:
        """Return the sum of both parts' values: `[M, n]` -> `[M, D]`."""
        parts = self._parts_of(codes.shape[1])
        chosen = codes.split([count for _, count in parts], dim=1)
        values = [part.codes_to_vectors(own, context) for (part, _), own in zip(parts, chosen, strict=True)]
        return values[0] + values[1] if len(values) == 2 else values[0]

    def step(self, vectors: Tensor, context: Context, depth: int) -> Step:
        """Run the steps of both parts on the same vectors, and add their values."""
        parts = self._parts_of(depth)
        steps = [part.step(vectors, context, count) for part, count in parts]
        values = steps[0].values + steps[1].values if len(steps) == 2 else steps[0].values
        joined: tuple[Tensor, ...] | None = None
        if context.parts and all(step.parts is not None for step in steps):
            joined = tuple(part for step in steps for part in step.parts or ())
        return Step(
            values,
            torch.cat([step.codes for step in steps], dim=1),
            _joined([count for _, count in parts], steps),
            [update for step in steps for update in step.updates],
            active_codes(steps, [slice(None)] * len(steps), len(vectors)),
            joined,
        )

    def _parts_of(self, depth: int) -> list[tuple[Quantizer, int]]:
        """Return the parts that contain the first `depth` codebooks, with the number of codebooks of each."""
        semantic = self.semantic.num_codebooks
        if depth < semantic and not self.semantic.prefix_decodable:
            raise ShapeError(
                f"num_codebooks is {depth}, but the semantic part always has {semantic} codebooks."
            )
        if depth <= semantic:
            return [(self.semantic, depth)]
        return [(self.semantic, semantic), (self.acoustic, depth - semantic)]


def _joined(counts: list[int], steps: list[Step]) -> Terms:
    """Average the losses over codebooks, as in Mimi, and name metrics by the number of the codebook."""
    losses: dict[str, Tensor] = {}
    metrics: dict[str, Tensor] = {}
    first = 0
    for count, step in zip(counts, steps, strict=True):
        for name, loss in step.terms.losses.items():
            losses[name] = losses.get(name, 0.0) + loss * (count / sum(counts))
        for name, value in step.terms.metrics.items():
            base, _, n = name.partition("/")
            metrics[f"{base}/{first + int(n or 0)}"] = value
        first += count
    return Terms(losses, metrics)

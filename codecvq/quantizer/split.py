"""`Split`: a semantic quantizer beside an acoustic one on the same latents (Mimi, arXiv:2410.00037 §3.3.2).

Both quantize the latents themselves, not what the other leaves over, and their values add up. So the semantic
codebook is free of the task of reconstruction, and a distillation loss can have it alone. Its codes come
first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codecvq.api.code_tables import CodeTables
from codecvq.api.reach import widest
from codecvq.errors import OptionError, ShapeError
from codecvq.quantizer.author import Quantizer
from codecvq.quantizer.engine import Context, Step
from codecvq.quantizer.grouped import active_codes, reject_variable_depth
from codecvq.quantizer.results import Terms
from codecvq.quantizer.tables import join_tables


class Split(Quantizer):
    """`semantic` beside `acoustic`, both of the same `dim`.

    The first n codebooks decode by themselves where the acoustic part is prefix decodable; quantizer
    dropout is the acoustic part's, so the semantic codebooks are always kept. Losses are means over all
    codebooks.
    """

    def __init__(self, semantic: Quantizer, acoustic: Quantizer) -> None:
        parts = (semantic, acoustic)
        if semantic.dim != acoustic.dim:
            raise OptionError(
                f"split: the semantic part has dim {semantic.dim} and the acoustic one {acoustic.dim}; both "
                "quantize the same latents."
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
        """Those of the semantic part, then those of the acoustic one."""
        return (*self.semantic.strides, *self.acoustic.strides)

    def code_tables(self) -> CodeTables | None:
        """Those of the semantic part, then those of the acoustic one."""
        return join_tables((self.semantic, self.acoustic))

    def vectors_to_codes(self, vectors: Tensor, context: Context, depth: int) -> Tensor:
        """Codes of both parts: `[M, D]` -> `[M, depth]`."""
        parts = self._parts_of(depth)
        return torch.cat([part.vectors_to_codes(vectors, context, count) for part, count in parts], dim=1)

    def codes_to_vectors(self, codes: Tensor, context: Context) -> Tensor:
        """The sum of both parts' values: `[M, n]` -> `[M, D]`."""
        parts = self._parts_of(codes.shape[1])
        chosen = codes.split([count for _, count in parts], dim=1)
        values = [part.codes_to_vectors(own, context) for (part, _), own in zip(parts, chosen, strict=True)]
        return values[0] + values[1] if len(values) == 2 else values[0]

    def step(self, vectors: Tensor, context: Context, depth: int) -> Step:
        """Both parts on the same vectors; values add up."""
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
        """The parts that the first `depth` codebooks are of, and how many of each."""
        semantic = self.semantic.num_codebooks
        if depth < semantic and not self.semantic.prefix_decodable:
            raise ShapeError(
                f"num_codebooks is {depth}, but the semantic part always has its {semantic} codebooks."
            )
        if depth <= semantic:
            return [(self.semantic, depth)]
        return [(self.semantic, semantic), (self.acoustic, depth - semantic)]


def _joined(counts: list[int], steps: list[Step]) -> Terms:
    """Means of losses over codebooks, as in Mimi; metrics under the number of their codebook."""
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

"""`Grouped`: any quantizer side by side, each on its own slice of the latent channels (arXiv:2305.02765)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codecvq.quantizer.interface import Quantizer, Step, Terms
from codecvq.quantizer.rows import Items


class Grouped(Quantizer):
    """`groups` side by side: the latent channels are cut into equal slices, codebooks follow one another
    group by group.
    """

    def __init__(self, groups: Sequence[Quantizer]) -> None:
        sizes = [size for group in groups for size in group.codebook_sizes]
        super().__init__(sum(group.dim for group in groups), sizes, estimator=groups[0].estimator)
        self.groups = nn.ModuleList(groups)

    def _members(self) -> list[Quantizer]:
        return [group for group in self.groups if isinstance(group, Quantizer)]

    def _slices(self, vectors: Tensor) -> tuple[Tensor, ...]:
        return vectors.split([group.dim for group in self._members()], dim=1)

    def _vectors_to_codes(self, vectors: Tensor, depth: int) -> Tensor:
        parts = zip(self._members(), self._slices(vectors), strict=True)
        return torch.cat([group._vectors_to_codes(part, group.num_codebooks) for group, part in parts], dim=1)

    def _codes_to_vectors(self, codes: Tensor) -> Tensor:
        parts = codes.split([group.num_codebooks for group in self._members()], dim=1)
        return torch.cat(
            [group._codes_to_vectors(part) for group, part in zip(self._members(), parts, strict=True)], dim=1
        )

    def _step(self, vectors: Tensor, items: Items, depth: int) -> Step:
        parts = zip(self._members(), self._slices(vectors), strict=True)
        steps = [group._step(part, items, group.num_codebooks) for group, part in parts]
        losses: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        first = 0  # codebook of a group's metric "name" or "name/n"
        for group, step in zip(self._members(), steps, strict=True):
            for name, loss in step.terms.losses.items():
                losses[name] = losses.get(name, 0.0) + loss / len(steps)
            for name, value in step.terms.metrics.items():
                base, _, n = name.partition("/")
                metrics[f"{base}/{first + int(n or 0)}"] = value
            first += group.num_codebooks
        return Step(
            torch.cat([step.values for step in steps], dim=1),
            torch.cat([step.codes for step in steps], dim=1),
            Terms(losses, metrics),
            [update for step in steps for update in step.updates],
        )

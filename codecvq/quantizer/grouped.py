"""`Grouped`, which applies quantizers to slices of the latent channels (arXiv:2305.02765).

With quantizer dropout the groups are nested: in training, each batch item uses its first n groups, and the
channels of the others are zero. The first channels thus learn the most important information, and the first n
codebooks can be decoded alone, as in a residual quantizer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.api.code_tables import CodeTables
from codecvq.api.reach import Reach, widest
from codecvq.errors import OptionError, ShapeError
from codecvq.quantizer.author import Quantizer
from codecvq.quantizer.dropout import check_dropout, draw_depths, rows_by_codebook, scatter_rows
from codecvq.quantizer.engine import Context, Step
from codecvq.quantizer.frames import Frames
from codecvq.quantizer.results import Terms
from codecvq.quantizer.tables import join_tables


class Grouped(Quantizer):
    """Quantizers on consecutive slices of the latent channels. Codebooks are in the order of the groups.

    Args:
        groups: The quantizers; their `dim`s add up to D.
        dropout: Probability that a batch item uses only its first n groups in training. If it is above 0,
            `num_codebooks` and `decode` accept the codebooks of any first n groups.
        dropout_depths: n is drawn uniformly from these numbers, by default from 1 to all.
    """

    def __init__(
        self, groups: Sequence[Quantizer], *, dropout: float = 0.0, dropout_depths: Sequence[int] = ()
    ) -> None:
        check_dropout(dropout, dropout_depths, len(groups))
        reject_variable_depth(groups)
        sizes = [size for group in groups for size in group.codebook_sizes]
        self.own_gradient = any(group.own_gradient for group in groups)
        self.training_values_differ = any(group.training_values_differ for group in groups)
        estimator = None if self.own_gradient else groups[0].estimator
        super().__init__(sum(group.dim for group in groups), sizes, estimator=estimator)
        self.reach = widest([group.reach for group in groups])
        self.groups = nn.ModuleList(groups)
        self.dropout, self.dropout_depths = dropout, tuple(dropout_depths)
        self.prefix_decodable = dropout > 0

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of all groups, one after another."""
        return tuple(stride for group in self._members() for stride in group.strides)

    @property
    def block_reach(self) -> Reach:
        """Left context and lookahead of a block of lcm(strides) frames."""
        return widest([group.block_reach for group in self._members()])

    def code_tables(self) -> CodeTables | None:
        """Return the tables of all groups, one after another."""
        return join_tables(self._members())

    @property
    def code_levels(self) -> tuple[tuple[int, ...], ...]:
        """Digits of the codes of all groups, one after another."""
        return tuple(levels for group in self._members() for levels in group.code_levels)

    def _members(self) -> list[Quantizer]:
        return [group for group in self.groups if isinstance(group, Quantizer)]

    def _slices(self, vectors: Tensor) -> tuple[Tensor, ...]:
        return vectors.split([group.dim for group in self._members()], dim=1)

    def _first(self, depth: int) -> list[Quantizer]:
        """Return the groups that contain the first `depth` codebooks."""
        members, count = [], 0
        for group in self._members():
            if count < depth:
                members.append(group)
                count += group.num_codebooks
        if count != depth:
            raise ShapeError(
                f"{depth} codebooks end inside a group; each has {self._members()[0].num_codebooks}. Use a "
                "multiple of that number."
            )
        return members

    def vectors_to_codes(self, vectors: Tensor, context: Context, depth: int) -> Tensor:
        """Return the first `depth` codes of vectors: `[M, D]` -> `[M, depth]`."""
        parts = zip(self._first(depth), self._slices(vectors), strict=False)
        codes = [group.vectors_to_codes(part, context, group.num_codebooks) for group, part in parts]
        return torch.cat(codes, dim=1)

    def codes_to_vectors(self, codes: Tensor, context: Context) -> Tensor:
        """Return the values of the first groups and zeros for the others: `[M, n]` -> `[M, D]`."""
        groups = self._first(codes.shape[1])
        parts = codes.split([group.num_codebooks for group in groups], dim=1)
        values = [group.codes_to_vectors(part, context) for group, part in zip(groups, parts, strict=True)]
        return self._filled(torch.cat(values, dim=1))

    def _filled(self, values: Tensor) -> Tensor:
        """Pad the values of the first groups with zeros for the others: `[M, channels]` -> `[M, D]`."""
        return F.pad(values, (0, self.dim - values.shape[1]))

    def step(self, vectors: Tensor, context: Context, depth: int) -> Step:
        """Run the steps of the groups that contain the first `depth` codebooks, and join them."""
        groups = self._first(depth)
        active = self._active_rows(context.frames, len(groups))
        parts = zip(groups, self._slices(vectors), active, strict=False)
        steps = [
            group.step(part[rows], context.select(rows), group.num_codebooks) for group, part, rows in parts
        ]
        values = [
            scatter_rows(rows, step.values, len(vectors)) for step, rows in zip(steps, active, strict=True)
        ]
        codes = [
            scatter_rows(rows, step.codes, len(vectors)) for step, rows in zip(steps, active, strict=True)
        ]
        return Step(
            self._filled(torch.cat(values, dim=1)),
            torch.cat(codes, dim=1),
            _joined(groups, steps),
            [update for step in steps for update in step.updates],
            active_codes(steps, active, len(vectors)),
            self._parts(steps, active, len(vectors)) if context.parts else None,
        )

    def _parts(
        self, steps: Sequence[Step], active: Sequence[Tensor | slice], count: int
    ) -> tuple[Tensor, ...] | None:
        """Return what each codebook adds, in the channels of its group: `[M, D]` each.

        Returns None if a group has no parts.
        """
        contributions, first = [], 0
        for step, rows in zip(steps, active, strict=True):
            if step.parts is None:
                return None
            width = step.values.shape[1]
            padding = (first, self.dim - first - width)
            contributions += [F.pad(scatter_rows(rows, part, count), padding) for part in step.parts]
            first += width
        return tuple(contributions)

    def _active_rows(self, frames: Frames, count: int) -> list[Tensor | slice]:
        """Return the indices of the vectors on which each of the first `count` groups is active.

        A slice means all vectors: there is no quantizer dropout.
        """
        if not self.training or self.dropout == 0:
            return [slice(None)] * count
        depths = draw_depths(frames.count, count, self.dropout, self.dropout_depths, self.generator)
        return rows_by_codebook(depths, frames, count)


def reject_variable_depth(members: Sequence[Quantizer]) -> None:
    """Raise OptionError for members with `variable_depth`.

    Only the last codebooks of a frame may be absent, but codebooks of the first members are not the last.
    """
    for member in members:
        if member.variable_depth:
            raise OptionError(
                f"{type(member).__name__} has a number of codebooks that varies from frame to frame, which "
                "works only without a composition: codebooks in the middle would be absent. Use it alone."
            )


def active_codes(steps: Sequence[Step], rows: Sequence[Tensor | slice], count: int) -> Tensor | None:
    """Return which codes of `count` vectors are active: bool `[count, n]`; None: all."""
    if all(
        step.active is None and isinstance(indices, slice) for step, indices in zip(steps, rows, strict=True)
    ):
        return None
    chosen = [
        torch.ones_like(step.codes, dtype=torch.bool) if step.active is None else step.active
        for step in steps
    ]
    return torch.cat(
        [scatter_rows(indices, part, count) for indices, part in zip(rows, chosen, strict=True)], dim=1
    )


def _joined(groups: Sequence[Quantizer], steps: Sequence[Step]) -> Terms:
    """Average the losses of the groups, and name their metrics by the number of the codebook."""
    losses: dict[str, Tensor] = {}
    metrics: dict[str, Tensor] = {}
    first = 0  # codebook of a group's metric "name" or "name/0"
    for group, step in zip(groups, steps, strict=True):
        for name, loss in step.terms.losses.items():
            losses[name] = losses.get(name, 0.0) + loss / len(steps)
        for name, value in step.terms.metrics.items():
            base, _, n = name.partition("/")
            metrics[f"{base}/{first + int(n or 0)}"] = value
        first += group.num_codebooks
    return Terms(losses, metrics)

"""The engine: from latents `[B, D, T]` to vectors, through a quantizer, and back.

Every quantizer runs in it, plain or composed. A composition (residual, grouped, split, a stranger's)
overrides four methods of `Quantizer`: `step`, `vectors_to_codes`, `codes_to_vectors`, and `updates_of`
where it has any state. It gives its members a `Context` for the vectors that they see, and joins their
`Step`s.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from codecvq.quantizer.checks import check_finite
from codecvq.quantizer.frames import Frames, finite_frames, real_vectors, to_batch
from codecvq.quantizer.ranks import counts_over_ranks, sum_over_ranks
from codecvq.quantizer.results import Quantized, Terms
from codecvq.quantizer.statistics import code_metrics
from codecvq.transfer import reads_without_sync

if TYPE_CHECKING:
    from codecvq.quantizer.author import Quantizer

#: the quantizer to update, with its vectors and codes
Update: TypeAlias = "tuple[Quantizer, Tensor, Tensor]"


@dataclass(frozen=True)
class Context:
    """What is known of M vectors besides their values."""

    frames: Frames  # which item and frame each of them is
    partial_sum: Tensor | None = None  # [M, D] in a residual form: the sum of the stages before
    parts: bool = False  # whether `Step.parts` are asked for

    @classmethod
    def of_one_item(cls, count: int, device: torch.device) -> Context:
        """`count` vectors as the frames of one item."""
        return cls(Frames(1, count, None, device))

    def select(self, rows: Tensor | slice) -> Context:
        """The context of the vectors at `rows`, int64 `[m]`; a slice is all of them."""
        if isinstance(rows, slice):
            return self
        partial_sum = None if self.partial_sum is None else self.partial_sum[rows]
        return replace(self, frames=self.frames.select(rows), partial_sum=partial_sum)


@dataclass(frozen=True)
class Step:
    """What a quantizer makes of vectors in `forward`."""

    values: Tensor  # [M, D], with the gradient
    codes: Tensor  # [M, n]
    terms: Terms
    updates: list[Update]
    active: Tensor | None = None  # [M, n] bool: which codes were chosen, not 0 by dropout; None: all were
    parts: tuple[Tensor, ...] | None = None  # [M, D] each: what each codebook adds, if asked for


def forward(quantizer: Quantizer, latents: Tensor, mask: Tensor | None, depth: int, parts: bool) -> Quantized:
    """See `Quantizer.forward`."""
    with without_autocast(latents.device):
        vectors, frames = real_vectors(latents, mask)
        finite = finite_frames(latents).flatten()[:, None]
        finite = finite if frames.real is None else finite[frames.real]
        whole = _known_finite(finite)
        clean = vectors if whole else torch.where(finite, vectors, 0.0)
        context = Context(frames, parts=parts)
        if quantizer.training and quantizer.has_state and not quantizer.is_frozen:
            step = _training_step(quantizer, clean, finite, context, depth)
        else:
            step = quantizer.step(clean, context, depth)
        step = step if quantizer.training else _as_decoded(quantizer, step, context)
        values = step.values if whole else torch.where(finite, step.values, torch.nan)
        chosen = step.codes >= 0 if quantizer.variable_depth else step.active
        metrics = code_metrics(step.codes, quantizer.codebook_sizes, chosen) | step.terms.metrics
    return Quantized(
        latents=to_batch(values, frames).to(latents.dtype),
        codes=to_batch(step.codes, frames),
        losses=step.terms.losses,
        metrics={name: value.detach() for name, value in metrics.items()},
        active=None if step.active is None else to_batch(step.active, frames),
        parts=None if step.parts is None else tuple(to_batch(part, frames) for part in step.parts),
    )


@torch.no_grad()
def encode(quantizer: Quantizer, latents: Tensor, depth: int, mask: Tensor | None) -> Tensor:
    """See `Quantizer.encode`."""
    quiet = eval_mode(quantizer) if quantizer.training else nullcontext()
    with quiet, without_autocast(latents.device):
        if mask is not None:
            latents = torch.where(mask[:, None], latents, 0.0)
        check_finite(latents)
        vectors, frames = real_vectors(latents, mask)
        codes = quantizer.vectors_to_codes(vectors, Context(frames), depth)
    return to_batch(codes, frames)


def decode(quantizer: Quantizer, codes: Tensor, mask: Tensor | None) -> Tensor:
    """See `Quantizer.decode`."""
    with without_autocast(codes.device):
        real = None if mask is None else mask.flatten()
        rows = codes.transpose(1, 2).flatten(0, 1)
        frames = Frames(codes.shape[0], codes.shape[2], real, codes.device)
        values = quantizer.codes_to_vectors(rows if real is None else rows[real], Context(frames))
    return to_batch(values, frames)


def _training_step(
    quantizer: Quantizer, vectors: Tensor, finite: Tensor, context: Context, depth: int
) -> Step:
    """A step with the updates of codebook state, which stay undone where the batch has non-finite vectors
    `[M, 1]` or none at all, on all processes together.
    """
    counts = sum_over_ranks(torch.stack([finite.sum(), (~finite).sum()]))
    learns = (counts[0] > 0) & (counts[1] == 0)
    if reads_without_sync(vectors.device):
        with nullcontext() if learns else eval_mode(quantizer):
            step = quantizer.step(vectors, context, depth)
        if learns:
            _run_updates(step.updates)
        return step
    before = [(tensor, tensor._version, tensor.detach().clone()) for tensor in quantizer.state_tensors()]
    step = quantizer.step(vectors, context, depth)
    _run_updates(step.updates)
    with torch.no_grad():  # undone on the device: to read `learns` here would wait for it
        for tensor, version, old in before:
            result = torch.where(learns, tensor.detach(), old)
            # a write that counts only where there was one: a pending backward, or a cache, goes by it
            (tensor if tensor._version != version else tensor.data).copy_(result)
    return step


def _as_decoded(quantizer: Quantizer, step: Step, context: Context) -> Step:
    """The step as eval gives it: losses detached, and values those that `decode` gives."""
    losses = {name: loss.detach() for name, loss in step.terms.losses.items()}
    with torch.no_grad():
        decoded = quantizer.codes_to_vectors(step.codes, replace(context, parts=False))
    values = decoded + (step.values - step.values.detach())  # the bracket is 0, and carries the gradient
    return replace(step, values=values, terms=Terms(losses, step.terms.metrics), updates=[])


def _run_updates(updates: list[Update]) -> None:
    """Make the updates of a step: one for each quantizer, of all its vectors, where any process has some."""
    merged: dict[Quantizer, list[tuple[Tensor, Tensor]]] = {}
    for quantizer, vectors, codes in updates:  # a quantizer that serves several stages comes several times
        merged.setdefault(quantizer, []).append((vectors, codes))
    counts = counts_over_ranks([sum(len(codes) for _, codes in parts) for parts in merged.values()])
    for (quantizer, parts), count in zip(merged.items(), counts, strict=True):
        if count:
            vectors, codes = (
                torch.cat(part) if len(part) > 1 else part[0] for part in zip(*parts, strict=True)
            )
            with torch.no_grad():
                quantizer.update(vectors, codes)


@contextmanager
def eval_mode(quantizer: Quantizer) -> Iterator[None]:
    """A block in which the quantizer is in eval: no codebook starts from data, nothing is dropped."""
    training = [module for module in quantizer.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A block without autocast. To enter one takes as long as to decode a few codes: only where it is on."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _known_finite(finite: Tensor) -> bool:
    """Whether all frames are finite, where the answer costs nothing."""
    return reads_without_sync(finite.device) and bool(finite.all())

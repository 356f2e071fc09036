"""The engine, which runs quantizers on batches: it converts latents `[B, D, T]` to vectors and back.

All quantizers run in it, single ones and compositions. A composition (residual, grouped, split, or a
third-party one) overrides four methods of `Quantizer`: `step`, `vectors_to_codes`, `codes_to_vectors`, and,
if it has state of its own, `updates_of`. It passes its members a `Context` for their vectors, and joins their
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

#: A pending update: the quantizer, its vectors `[M, D]` and its codes `[M, N]`.
Update: TypeAlias = "tuple[Quantizer, Tensor, Tensor]"


@dataclass(frozen=True)
class Context:
    """Information about M vectors in addition to their values."""

    frames: Frames  # batch item and frame of each vector
    partial_sum: Tensor | None = None  # [M, D], in residual stacks: sum of the earlier stages
    parts: bool = False  # whether the step returns `Step.parts`

    @classmethod
    def of_one_item(cls, count: int, device: torch.device) -> Context:
        """Return the context of `count` vectors that are the frames of one batch item."""
        return cls(Frames(1, count, None, device))

    def select(self, rows: Tensor | slice) -> Context:
        """Return the context of the vectors at `rows`, int64 `[m]`. A slice stands for all vectors."""
        if isinstance(rows, slice):
            return self
        partial_sum = None if self.partial_sum is None else self.partial_sum[rows]
        return replace(self, frames=self.frames.select(rows), partial_sum=partial_sum)


@dataclass(frozen=True)
class Step:
    """Result of a quantizer for M vectors in `forward`."""

    values: Tensor  # [M, D], with gradient
    codes: Tensor  # [M, n]
    terms: Terms
    updates: list[Update]
    active: Tensor | None = None  # [M, n] bool: False where dropout set a code to 0; None: all active
    parts: tuple[Tensor, ...] | None = None  # [M, D] each: what each codebook adds, if requested


def forward(quantizer: Quantizer, latents: Tensor, mask: Tensor | None, depth: int, parts: bool) -> Quantized:
    """Implement `Quantizer.forward`; inputs are checked."""
    with without_autocast(latents.device):
        vectors, frames = real_vectors(latents, mask)
        finite = finite_frames(latents).flatten()[:, None]
        finite = finite if frames.real is None else finite[frames.real]
        known_finite = _known_finite(finite)
        clean = vectors if known_finite else torch.where(finite, vectors, 0.0)
        context = Context(frames, parts=parts)
        if quantizer.training and quantizer.has_state and not quantizer.is_frozen:
            step = _training_step(quantizer, clean, finite, context, depth)
        else:
            step = quantizer.step(clean, context, depth)
        step = step if quantizer.training else _as_decoded(quantizer, step, context)
        values = step.values if known_finite else torch.where(finite, step.values, torch.nan)
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
    """Implement `Quantizer.encode`; inputs are checked."""
    mode = eval_mode(quantizer) if quantizer.training else nullcontext()
    with mode, without_autocast(latents.device):
        if mask is not None:
            latents = torch.where(mask[:, None], latents, 0.0)
        check_finite(latents)
        vectors, frames = real_vectors(latents, mask)
        codes = quantizer.vectors_to_codes(vectors, Context(frames), depth)
    return to_batch(codes, frames)


def decode(quantizer: Quantizer, codes: Tensor, mask: Tensor | None) -> Tensor:
    """Implement `Quantizer.decode`; inputs are checked."""
    with without_autocast(codes.device):
        real = None if mask is None else mask.flatten()
        rows = codes.transpose(1, 2).flatten(0, 1)
        frames = Frames(codes.shape[0], codes.shape[2], real, codes.device)
        values = quantizer.codes_to_vectors(rows if real is None else rows[real], Context(frames))
    return to_batch(values, frames)


def _training_step(
    quantizer: Quantizer, vectors: Tensor, finite: Tensor, context: Context, depth: int
) -> Step:
    """Run a step and its updates of codebook state.

    The state does not change if the batch has no vectors, or has non-finite ones, on any process. `finite` is
    bool `[M, 1]`.
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
    with torch.no_grad():  # restore on the device: reading `learns` here would synchronize with the GPU
        for tensor, version, old in before:
            result = torch.where(learns, tensor.detach(), old)
            # Increase the version counter only if the step did, since autograd and caches depend on it.
            (tensor if tensor._version != version else tensor.data).copy_(result)
    return step


def _as_decoded(quantizer: Quantizer, step: Step, context: Context) -> Step:
    """Return the step for eval mode: detached losses, and the values that `decode` returns."""
    losses = {name: loss.detach() for name, loss in step.terms.losses.items()}
    with torch.no_grad():
        decoded = quantizer.codes_to_vectors(step.codes, replace(context, parts=False))
    values = decoded + (step.values - step.values.detach())  # adds 0, which carries the gradient
    return replace(step, values=values, terms=Terms(losses, step.terms.metrics), updates=[])


def _run_updates(updates: list[Update]) -> None:
    """Run the updates of a step, one per quantizer with all its vectors.

    Skips a quantizer if no process has vectors for it.
    """
    merged: dict[Quantizer, list[tuple[Tensor, Tensor]]] = {}
    for quantizer, vectors, codes in updates:  # a quantizer that several stages share occurs repeatedly
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
    """Context manager that sets the quantizer to eval mode.

    No codebook is then initialized from data, and there is no quantizer dropout.
    """
    training = [module for module in quantizer.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context manager that disables autocast.

    Returns a null context if autocast is off: entering `torch.autocast` takes as long as decoding a few
    codes.
    """
    if torch.compiler.is_compiling() or torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _known_finite(finite: Tensor) -> bool:
    """Whether all frames are finite; False if reading the answer would synchronize with the GPU."""
    return reads_without_sync(finite.device) and bool(finite.all())

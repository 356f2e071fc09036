"""`Quantizer`, the interface, and `Quantized`, what it returns.

An author writes two functions over plain vectors: `quantize`, vectors `[M, D]` to values `[M, D]` and codes
`[M, N]`, and `dequantize`, codes back to values. The host does the rest: layout, masks, float32 under
autocast, projection to the code's own dimension, the gradient estimator, metrics, checks. Where a method has
them, the author adds `bound` (a differentiable map before the choice, as tanh in FSQ), `terms` (losses and
metrics), `update` (state that is not learned by gradient) and `stage_scale` (how much finer the grid of
residual stage n is).

Letters: B batch, D latent channels, T frames, N codebooks, K codebook size, M vectors (the real frames of a
batch, in a row).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from codecvq.api.reach import Reach
from codecvq.arguments import checked_codes, whole_number
from codecvq.errors import OptionError, ShapeError
from codecvq.limits import MAX_CODEBOOK_SIZE, MAX_CODEBOOKS
from codecvq.quantizer.checks import check_finite, check_in_range
from codecvq.quantizer.estimators import GainWatch, estimate, find_estimator
from codecvq.quantizer.ranks import counts_over_ranks, sum_over_ranks
from codecvq.quantizer.rows import Items, finite_frames, in_place, real_rows
from codecvq.quantizer.statistics import code_metrics
from codecvq.transfer import reads_are_free


@dataclass(frozen=True)
class Quantized:
    """What a quantizer makes of latents."""

    latents: Tensor  # [B, D, T], carries the estimator's gradient; zero at padding
    codes: Tensor  # [B, n, T] int64; zero at padding
    losses: dict[str, Tensor]  # name -> weighted 0-d tensor to add; detached in eval
    metrics: dict[str, Tensor]  # name -> detached 0-d tensor; "perplexity/1" is that of codebook 1
    kept: Tensor | None = None  # [B, n, T] bool: what dropout kept, False at padding; None: it kept all


@dataclass(frozen=True)
class Progress:
    """How far a training is."""

    step: int = 0  # optimizer steps made so far
    steps: int | None = None  # in all; None: not known

    @property
    def fraction(self) -> float:
        """From 0 at the first step to 1 at the last; 0 where the number of steps is not known."""
        return min(1.0, self.step / self.steps) if self.steps else 0.0


@dataclass(frozen=True)
class Terms:
    """Losses (0-d, weighted) and metrics (0-d) of one batch of vectors."""

    losses: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)


#: who is to be updated, with which vectors and codes
Update: TypeAlias = "tuple[Quantizer, Tensor, Tensor]"


@dataclass(frozen=True)
class Step:
    """What a quantizer makes of plain vectors; inside the package only."""

    values: Tensor  # [M, D]
    codes: Tensor  # [M, n]
    terms: Terms
    updates: list[Update]
    kept: Tensor | None = None  # [M, n] bool: which codes were chosen, not 0 by dropout; None: all were


class Quantizer(nn.Module):
    """Base class of every quantizer, and its public face.

    Args of the constructor: `dim` is D of the latents; `codebook_sizes` one K per codebook; `code_dim` the
    dimension in which vectors are quantized, with a learned linear projection in and out where it differs
    from `dim`; `estimator` the registered name of a gradient estimator.
    """

    #: True where any first n codebooks decode to something by themselves (residual quantizers)
    prefix_decodable: ClassVar[bool] = False
    #: True where a residual form refines one vector on ever finer grids (`stage_scale`): one projection, one
    #: bound around all stages. False where each stage learns a codebook: each has a projection of its own.
    refines: ClassVar[bool] = False
    #: True where `terms` sums over the processes of a training: then every process calls it, also one that
    #: has no vectors, so it must do with M = 0. False: it is called with vectors only.
    collective: ClassVar[bool] = False
    #: True where the values of `quantize` carry the gradient to vectors and codebook themselves, as those of
    #: Gumbel-softmax, IBQ and NSVQ: they are passed on as they are, and no estimator is used
    own_gradient: bool = False
    #: True where `quantize` gives other values in training than `dequantize` gives for its codes, as with
    #: noise substitution
    training_values_differ: bool = False
    #: True where `progress` changes what the quantizer does; it is saved with the weights then
    uses_progress: bool = False
    #: in frames: how far a frame's code and value depend on other frames
    reach: Reach = Reach(0, 0)
    #: True where the number of codebooks may differ from frame to frame: absent codes are -1
    variable_depth: bool = False

    def __init__(
        self, dim: int, codebook_sizes: Sequence[int], *, code_dim: int | None = None, estimator: str = "ste"
    ) -> None:
        super().__init__()
        code_dim = dim if code_dim is None else code_dim
        if dim < 1 or code_dim < 1:
            raise OptionError(f"dim is {dim} and the code's dimension {code_dim}; both must be at least 1")
        if not codebook_sizes or min(codebook_sizes) < 1 or max(codebook_sizes) > MAX_CODEBOOK_SIZE:
            raise OptionError(f"codebook sizes are {tuple(codebook_sizes)}; each must be between 1 and 2^62")
        if len(codebook_sizes) > MAX_CODEBOOKS:
            raise OptionError(
                f"{len(codebook_sizes)} codebooks are given; at most {MAX_CODEBOOKS} are possible"
            )
        self.dim = dim
        self.code_dim = code_dim
        self.codebook_sizes = tuple(int(size) for size in codebook_sizes)
        self.estimator = estimator
        self.config: dict[str, Any] = {}  # name and options, as build_quantizer was given them
        self._frozen = False
        self._progress = Progress()
        self._generator: torch.Generator | None = None
        self.project_in: nn.Module = nn.Identity() if dim == code_dim else nn.Linear(dim, code_dim)
        self.project_out: nn.Module = nn.Identity() if dim == code_dim else nn.Linear(code_dim, dim)
        self._estimator = find_estimator(estimator)
        self._watch = GainWatch(estimator)

    # What an author writes

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Values and codes: `[M, D]`, finite float32, after `bound` -> `[M, D]` and int64 `[M, N]`. M may be
        0.

        In training the values carry a gradient to the codebook where it is learned by gradient.
        """
        raise NotImplementedError(f"{type(self).__name__} must define quantize(vectors) -> (values, codes)")

    def dequantize(self, codes: Tensor) -> Tensor:
        """Values of codes: int64 `[M, N]`, in range -> `[M, D]`, the same values that `quantize` gives with
        these codes.
        """
        raise NotImplementedError(f"{type(self).__name__} must define dequantize(codes) -> values")

    def codes_alone(self, vectors: Tensor) -> Tensor:
        """The codes of `quantize`, for `encode`; define it where values take long: `[M, D]` -> `[M, N]`."""
        return self.quantize(vectors)[1]

    def bound(self, vectors: Tensor) -> Tensor:
        """A differentiable map of `[M, D]` before the choice; the gradient estimator works behind it."""
        return vectors

    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        """Losses and metrics of real vectors after `bound`; M is at least 1 unless it is `collective`."""
        return Terms()

    def update(self, vectors: Tensor, codes: Tensor) -> None:
        """Change state that no gradient does, once a training step; not called with NaN or infinity around.

        Under several processes all call it together; M may be 0 on some, never on all.
        """

    def stage_scale(self, stage: int) -> Tensor | float:
        """Factor by which the grid of residual stage `stage` is finer (below 1), a number or `[D]`."""
        return 1.0

    def candidates(self, vectors: Tensor, count: int) -> Tensor:
        """Codes of the `count` best values for each vector, best first: `[M, D]` -> `[M, count]`. Only the
        beam search of a residual form asks; `count` is at most K.
        """
        raise NotImplementedError(f"{type(self).__name__} lists no candidates: it has no beam search")

    # What users call

    @property
    def generator(self) -> torch.Generator | None:
        """What dropout and codebook starts draw from, in all stages and groups; None: torch's own."""
        return self._generator

    @generator.setter
    def generator(self, generator: torch.Generator | None) -> None:
        for member in self._quantizers():
            member._generator = generator

    @property
    def is_frozen(self) -> bool:
        """Whether `freeze` was called."""
        return self._frozen

    def freeze(self) -> None:
        """Keep all weights and codebooks as they are, also in training mode: no parameter has a gradient and
        `update` is not called. Quantizer dropout and the gradient to the latents stay.
        """
        self.requires_grad_(False)
        for member in self._quantizers():
            member._frozen = True

    @property
    def bits_per_frame(self) -> float:
        """The sum of log2 K over the codebooks."""
        return sum(math.log2(size) for size in self.codebook_sizes)

    @property
    def num_codebooks(self) -> int:
        """N."""
        return len(self.codebook_sizes)

    @property
    def strides(self) -> tuple[int, ...]:
        """How many frames one code of each codebook stands for; see `codecvq.quantizer.strides`."""
        return (1,) * self.num_codebooks

    @property
    def progress(self) -> Progress:
        """How far the training is, as `set_progress` was told."""
        return self._progress

    def set_progress(self, step: int, steps: int | None = None) -> None:
        """Set `progress` in all stages and groups; a training loop calls it once an optimizer step."""
        for member in self._quantizers():
            member._progress = Progress(step, steps)

    def forward(
        self, latents: Tensor, mask: Tensor | None = None, num_codebooks: int | None = None
    ) -> Quantized:
        """Quantized latents with codes, losses and metrics; updates codebook state in training mode.

        Shapes: latents `[B, D, T]` of any float type, mask `[B, T]` bool with True for real frames -> see
        `Quantized`. Padding changes nothing at real frames, neither values nor losses nor state. A non-finite
        frame comes out as NaN, so that the loss shows it, and changes no state. The codes belong to the
        values returned, which an update of the codebook in this same call has not touched yet.
        """
        depth = self._check(latents, mask, num_codebooks)
        with _in_float32(latents.device):
            vectors, items, real = real_rows(latents, mask)
            finite = finite_frames(latents).flatten()[:, None]
            finite = finite if real is None else finite[real]
            whole = _known_finite(finite)
            clean = vectors if whole else torch.where(finite, vectors, 0.0)
            if self.training and self._has_state() and not self._frozen:
                step = self._learning_step(clean, finite, items, depth)
            else:
                step = self._step(clean, items, depth)
            step = step if self.training else self._as_decoded(step)
            values = step.values if whole else torch.where(finite, step.values, torch.nan)
            metrics = code_metrics(step.codes, self.codebook_sizes, step.kept) | step.terms.metrics
        shape = (latents.shape[0], latents.shape[2])
        return Quantized(
            latents=in_place(values, real, shape).to(latents.dtype),
            codes=in_place(step.codes, real, shape),
            losses=step.terms.losses,
            metrics={name: value.detach() for name, value in metrics.items()},
            kept=None if step.kept is None else in_place(step.kept, real, shape),
        )

    @torch.no_grad()
    def encode(self, latents: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Codes alone: `[B, D, T]` -> int64 `[B, n, T]`. Raises NonFiniteError for NaN or infinity, naming
        the first frame.

        Learns nothing and draws nothing in training mode either.
        """
        depth = self._check(latents, None, num_codebooks)
        quiet = _as_in_eval(self) if self.training else nullcontext()
        with quiet, _in_float32(latents.device):
            vectors, _, _ = real_rows(latents, None)
            check_finite(latents)
            codes = self._vectors_to_codes(vectors, depth)
        return in_place(codes, None, (latents.shape[0], latents.shape[2]))

    def decode(self, codes: Tensor) -> Tensor:
        """Latents of codes: int `[B, n, T]` -> float32 `[B, D, T]`; n is N, or less where the first codebooks
        decode by themselves.
        """
        codes = checked_codes(codes, self.num_codebooks)
        self._depth(codes.shape[1])
        check_in_range(codes, self.codebook_sizes)
        with _in_float32(codes.device):
            values = self._codes_to_vectors(codes.transpose(1, 2).flatten(0, 1))
        return in_place(values, None, (codes.shape[0], codes.shape[2]))

    # Plain vectors; Residual and Grouped have their own

    def enter(self, vectors: Tensor) -> Tensor:
        """Vectors in the code's own space: `[M, D]` -> `[M, code_dim]`."""
        return self.bound(self.project_in(vectors))

    def _vectors_to_codes(self, vectors: Tensor, depth: int) -> Tensor:
        return self.codes_alone(self.enter(vectors))

    def _codes_to_vectors(self, codes: Tensor) -> Tensor:
        return self.project_out(self.dequantize(codes))

    def _step(self, vectors: Tensor, items: Items, depth: int) -> Step:
        entered = self.enter(vectors)
        values, codes = self.quantize(entered)
        terms = self.terms_of(entered, values, codes)
        passed = estimate(self._estimator, entered, values, self._watch if self.training else None)
        return Step(self.project_out(passed), codes, terms, self.updates(entered, codes))

    def _learning_step(self, vectors: Tensor, finite: Tensor, items: Items, depth: int) -> Step:
        """A step with the updates of codebook state, which stay undone where the batch has non-finite vectors
        `[M, 1]` or none at all, on all processes together.
        """
        counts = sum_over_ranks(torch.stack([finite.sum(), (~finite).sum()]))
        learns = (counts[0] > 0) & (counts[1] == 0)
        if reads_are_free(vectors.device):
            with nullcontext() if learns else _as_in_eval(self):
                step = self._step(vectors, items, depth)
            if learns:
                _run_updates(step.updates)
            return step
        before = [(tensor, tensor._version, tensor.detach().clone()) for tensor in self._state()]
        step = self._step(vectors, items, depth)
        _run_updates(step.updates)
        with torch.no_grad():  # undone on the device: to read `learns` here would wait for it
            for tensor, version, old in before:
                kept = torch.where(learns, tensor.detach(), old)
                # a write that counts only where there was one: a pending backward, or a cache, goes by it
                (tensor if tensor._version != version else tensor.data).copy_(kept)
        return step

    def _state(self) -> list[Tensor]:
        """What `update` and the start of a codebook may change: buffers and parameters of the quantizers that
        have an `update`.
        """
        learners = (member for member in self._quantizers() if type(member).update is not Quantizer.update)
        return list(
            dict.fromkeys(tensor for each in learners for tensor in (*each.buffers(), *each.parameters()))
        )

    def terms_of(self, entered: Tensor, values: Tensor, codes: Tensor) -> Terms:
        """The terms of a step, also where M is 0: zeros then, under the same names."""
        if len(entered) or self.collective:
            return self.terms(entered, values, codes)
        nothing = codes.new_zeros(1, codes.shape[1])
        terms = self.terms(entered.new_zeros(1, entered.shape[1]), self.dequantize(nothing), nothing)
        return Terms(
            {name: loss * 0.0 for name, loss in terms.losses.items()},
            {name: metric * 0.0 for name, metric in terms.metrics.items()},
        )

    def updates(self, entered: Tensor, codes: Tensor) -> list[Update]:
        """The update of this step, to be made once it is known that all vectors are finite; none where there
        is no state.
        """
        return [] if type(self).update is Quantizer.update else [(self, entered.detach(), codes)]

    def _quantizers(self) -> list[Quantizer]:
        """Itself and every quantizer inside."""
        return [member for member in self.modules() if isinstance(member, Quantizer)]

    def _has_state(self) -> bool:
        """Whether anything in it changes by `update`."""
        return any(type(member).update is not Quantizer.update for member in self._quantizers())

    def _as_decoded(self, step: Step) -> Step:
        """The step as eval gives it: losses detached, and values those that `decode` gives."""
        losses = {name: loss.detach() for name, loss in step.terms.losses.items()}
        with torch.no_grad():
            decoded = self._codes_to_vectors(step.codes)
        values = decoded + (step.values - step.values.detach())  # the bracket is 0, and carries the gradient
        return Step(values, step.codes, Terms(losses, step.terms.metrics), [])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Quantizer:
        """What `.to()`, `.half()` and `.bfloat16()` call: all it has may move to another device, but stays in
        float32, since rounded codewords and projections would give other codes.
        """
        return super()._apply(lambda tensor: _in_its_type(fn(tensor), tensor), recurse)

    # Input, checked once

    def _depth(self, num_codebooks: int | None) -> int:
        if num_codebooks is None or whole_number(num_codebooks) == self.num_codebooks:
            return self.num_codebooks
        if not self.prefix_decodable:
            raise ShapeError(
                f"num_codebooks is {num_codebooks}; {type(self).__name__} always has {self.num_codebooks}"
            )
        depth = whole_number(num_codebooks)
        if depth is None or not 1 <= depth <= self.num_codebooks:
            raise ShapeError(
                f"num_codebooks is {num_codebooks!r}; this quantizer has 1 to {self.num_codebooks}"
            )
        return depth

    def _check(self, latents: Tensor, mask: Tensor | None, num_codebooks: int | None) -> int:
        if latents.ndim != 3 or latents.shape[1] != self.dim or not latents.is_floating_point():
            raise ShapeError(
                f"latents are {latents.dtype} {list(latents.shape)}; needed are floats [B, D, T] with "
                f"D={self.dim}. For [..., D] there is codecvq.quantizer.ChannelsLast."
            )
        if mask is not None and (
            mask.dtype != torch.bool or mask.shape != (latents.shape[0], latents.shape[2])
        ):
            raise ShapeError(
                f"mask is {mask.dtype} {list(mask.shape)}; needed is bool [B, T] = "
                f"{[latents.shape[0], latents.shape[2]]}, True = real"
            )
        return self._depth(num_codebooks)


@contextmanager
def _as_in_eval(quantizer: Quantizer) -> Iterator[None]:
    """A block in which the quantizer is in eval: no codebook starts from data, nothing is dropped."""
    training = [module for module in quantizer.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _in_float32(device: torch.device) -> AbstractContextManager[object]:
    """A block without autocast. To enter one takes as long as to decode a few codes: only where it is on."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _known_finite(finite: Tensor) -> bool:
    """Whether all frames are finite, where the answer costs nothing."""
    return reads_are_free(finite.device) and bool(finite.all())


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


def _in_its_type(moved: Tensor, tensor: Tensor) -> Tensor:
    return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

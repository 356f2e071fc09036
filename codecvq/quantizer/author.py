"""`Quantizer`, the page of an author.

An author writes two functions over plain vectors: `quantize`, vectors `[M, D]` to values `[M, D]` and codes
`[M, N]`, and `dequantize`, codes back to values. The engine does the rest: layout, masks, float32 under
autocast, projection to the code's own dimension, the gradient estimator, metrics, checks. Where a method
has them, the author adds `bound` (a differentiable map before the choice, as tanh in FSQ), `terms` (losses
and metrics), `update` (state that is not learned by gradient) and `stage_scale` (how much finer the grid of
residual stage n is). Attributes declare what the engine has to know, as `own_gradient`. A method over whole
items subclasses `SequenceQuantizer`, and a residual stage that depends on the stages before it
`ConditionalQuantizer`.

Letters: B batch, D latent channels, T frames, N codebooks, K codebook size, M vectors (the real frames of a
batch, in a row).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from codecvq.api.code_tables import CodeTables
from codecvq.api.reach import Reach
from codecvq.arguments import as_integer, checked_codes
from codecvq.errors import OptionError, ShapeError
from codecvq.limits import MAX_CODEBOOK_SIZE, MAX_CODEBOOKS
from codecvq.quantizer import engine
from codecvq.quantizer.base import QuantizerBase
from codecvq.quantizer.checks import check_in_range
from codecvq.quantizer.engine import Context, Step, Update
from codecvq.quantizer.estimators import GainMonitor, estimate, find_estimator
from codecvq.quantizer.results import Quantized, Terms
from codecvq.quantizer.strides import check_blocks


class Quantizer(QuantizerBase):
    """Base class of every quantizer, and its public face.

    Args of the constructor: `dim` is D of the latents; `codebook_sizes` one K per codebook; `code_dim` the
    dimension in which vectors are quantized, with a learned linear projection in and out where it differs
    from `dim`; `estimator` the registered name of a gradient estimator, "ste" by default.
    """

    #: True where any first n codebooks decode to something by themselves (residual quantizers)
    prefix_decodable: bool = False
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
    #: noise substitution. In a residual form only the last stage that an item keeps gives its training
    #: values.
    training_values_differ: bool = False
    #: True where `progress` changes what the quantizer does; it is saved with the weights then
    uses_progress: bool = False
    #: True where the number of codebooks may differ from frame to frame: absent codes are -1, the last ones
    #: of a frame
    variable_depth: bool = False
    #: True where a residual stage depends on the sum of the stages before it, see `ConditionalQuantizer`
    uses_partial_sum: bool = False
    #: in frames: how far a frame's code and value depend on other frames
    reach: Reach = Reach(0, 0)

    def __init__(
        self,
        dim: int,
        codebook_sizes: Sequence[int],
        *,
        code_dim: int | None = None,
        estimator: str | None = None,
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
        if self.own_gradient and estimator is not None:
            raise OptionError(
                f"estimator is {estimator!r}, but the values of {type(self).__name__} carry their own "
                "gradient, so it would do nothing. Leave it out."
            )
        self.dim = dim
        self.code_dim = code_dim
        self.codebook_sizes = tuple(int(size) for size in codebook_sizes)
        self.config: dict[str, Any] = {}  # name and options, as build_quantizer was given them
        self.project_in: nn.Module = nn.Identity() if dim == code_dim else nn.Linear(dim, code_dim)
        self.project_out: nn.Module = nn.Identity() if dim == code_dim else nn.Linear(code_dim, dim)
        #: the name of its gradient estimator; None where the values carry their own gradient
        self.estimator = None if self.own_gradient else estimator or "ste"
        self._estimator = None if self.estimator is None else find_estimator(self.estimator)
        self._monitor = GainMonitor(self.estimator or "")

    # What an author writes

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Values and codes: `[M, D]`, finite float32, after `bound` -> `[M, D]` and int64 `[M, N]`. M may be
        0.

        In training the values carry a gradient to the codebook where it is learned by gradient, which serves
        the losses of `terms`; with `own_gradient` it serves the task too.
        """
        raise NotImplementedError(f"{type(self).__name__} must define quantize(vectors) -> (values, codes)")

    def dequantize(self, codes: Tensor) -> Tensor:
        """Values of codes: int64 `[M, N]`, in range -> `[M, D]`, the same values that `quantize` gives with
        these codes.
        """
        raise NotImplementedError(f"{type(self).__name__} must define dequantize(codes) -> values")

    def codes_only(self, vectors: Tensor) -> Tensor:
        """The codes of `quantize`, for `encode`; define it where values take long: `[M, D]` -> `[M, N]`."""
        return self.quantize(vectors)[1]

    def bound(self, vectors: Tensor) -> Tensor:
        """A differentiable map of `[M, D]` before the choice; the gradient estimator works behind it."""
        return vectors

    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        """Losses and metrics of real vectors after `bound`; M is at least 1 unless it is `collective`."""
        return Terms()

    def update(self, vectors: Tensor, codes: Tensor) -> None:
        """Change state that no gradient changes: once for each forward pass in training, so `accumulate`
        times an optimizer step; not called for a batch with NaN or infinity.

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

    def code_tables(self) -> CodeTables | None:
        """The learned frequencies of its codes, for the entropy coder of `.cvq` files; None: it has none.

        They are integers of its buffers, so that they are saved with it; see `CodeTables`.
        """
        return None

    # What users call

    @property
    def bits_per_frame(self) -> float:
        """The sum of log2 K over the codebooks, each divided by its stride."""
        sizes = zip(self.codebook_sizes, self.strides, strict=True)
        return sum(math.log2(size) / stride for size, stride in sizes)

    @property
    def num_codebooks(self) -> int:
        """N."""
        return len(self.codebook_sizes)

    @property
    def strides(self) -> tuple[int, ...]:
        """How many frames one code of each codebook stands for; see `codecvq.quantizer.strides`."""
        return (1,) * self.num_codebooks

    def forward(
        self,
        latents: Tensor,
        mask: Tensor | None = None,
        num_codebooks: int | None = None,
        parts: bool = False,
    ) -> Quantized:
        """Quantized latents with codes, losses and metrics; updates codebook state in training mode.

        Shapes: latents `[B, D, T]` of any float type, mask `[B, T]` bool with True for real frames -> see
        `Quantized`. Padding changes nothing at real frames, neither values nor losses nor state. A non-finite
        frame comes out as NaN, so that the loss shows it, and changes no state. The codes belong to the
        values returned, which an update of the codebook in this same call has not touched yet. With `parts`
        the result has what each codebook adds.
        """
        depth = self._check(latents, mask, num_codebooks)
        return engine.forward(self, latents, mask, depth, parts)

    def encode(self, latents: Tensor, num_codebooks: int | None = None, mask: Tensor | None = None) -> Tensor:
        """Codes alone: latents `[B, D, T]`, mask `[B, T]` -> int64 `[B, n, T]`, 0 at padding. Raises
        NonFiniteError for NaN or infinity, naming the first frame.

        Learns nothing and draws nothing in training mode either. The mask matters to quantizers that see
        neighbouring frames.
        """
        depth = self._check(latents, mask, num_codebooks)
        return engine.encode(self, latents, depth, mask)

    def decode(self, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """Latents of codes: int `[B, n, T]`, mask `[B, T]` -> float32 `[B, D, T]`, 0 at padding; n is N, or
        less where the first codebooks decode by themselves.
        """
        codes = checked_codes(codes, self.num_codebooks)
        self._depth(codes.shape[1])
        self._check_mask(mask, codes)
        check_in_range(codes, self.codebook_sizes, self.variable_depth)
        if max(self.strides) > 1:
            check_blocks(codes, self.strides, mask)
        return engine.decode(self, codes, mask)

    # What compositions override and call, see `codecvq.quantizer.engine`

    def to_code_space(self, vectors: Tensor) -> Tensor:
        """Vectors in the code's own space: `[M, D]` -> `[M, code_dim]`."""
        return self.bound(self.project_in(vectors))

    def step(self, vectors: Tensor, context: Context, depth: int) -> Step:
        """What `forward` makes of vectors `[M, D]` with the first `depth` codebooks."""
        entered = self.to_code_space(vectors)
        values, codes = self.quantize_with_context(entered, context)
        terms = self.terms_of(entered, values, codes)
        passed = self.project_out(self.apply_estimator(entered, values))
        parts = (passed,) if context.parts and self.num_codebooks == 1 else None
        return Step(passed, codes, terms, self.updates_of(entered, codes), parts=parts)

    def vectors_to_codes(self, vectors: Tensor, context: Context, depth: int) -> Tensor:
        """The codes of `encode`: `[M, D]` -> int64 `[M, depth]`."""
        return self.codes_with_context(self.to_code_space(vectors), context)

    def codes_to_vectors(self, codes: Tensor, context: Context) -> Tensor:
        """The values of `decode`: int64 `[M, n]` -> `[M, D]`."""
        return self.project_out(self.dequantize_with_context(codes, context))

    def quantize_with_context(self, vectors: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """`quantize` for vectors of which a context is known; what quantizers that depend on one override."""
        return self.quantize(vectors)

    def codes_with_context(self, vectors: Tensor, context: Context) -> Tensor:
        """`codes_only` with a context."""
        return self.codes_only(vectors)

    def dequantize_with_context(self, codes: Tensor, context: Context) -> Tensor:
        """`dequantize` with a context."""
        return self.dequantize(codes)

    def candidates_with_context(self, vectors: Tensor, count: int, context: Context) -> Tensor:
        """`candidates` with a context."""
        return self.candidates(vectors, count)

    @property
    def lists_candidates(self) -> bool:
        """Whether a residual form can search a beam."""
        return type(self).candidates is not Quantizer.candidates

    def apply_estimator(self, vectors: Tensor, values: Tensor) -> Tensor:
        """Values with the gradient of the estimator to vectors, or with their own: `[M, D]` -> `[M, D]`."""
        if self._estimator is None:
            return values
        return estimate(self._estimator, vectors, values, self._monitor if self.training else None)

    def terms_of(self, entered: Tensor, values: Tensor, codes: Tensor) -> Terms:
        """The terms of a step, also where M is 0: zeros then, under the same names."""
        if len(entered) or self.collective:
            return self.terms(entered, values, codes)
        nothing = codes.new_zeros(1, codes.shape[1])
        zero = entered.new_zeros(1, entered.shape[1])
        value = self.dequantize_with_context(nothing, Context.of_one_item(1, zero.device))
        terms = self.terms(zero, value, nothing)
        return Terms(
            {name: loss * 0.0 for name, loss in terms.losses.items()},
            {name: metric * 0.0 for name, metric in terms.metrics.items()},
        )

    def updates_of(self, entered: Tensor, codes: Tensor) -> list[Update]:
        """The update of this step, to be made once it is known that all vectors are finite; none where there
        is no state.
        """
        return [(self, entered.detach(), codes)] if self.has_update else []

    def quantizers(self) -> list[Quantizer]:
        """Itself and every quantizer inside."""
        return [member for member in self.modules() if isinstance(member, Quantizer)]

    @property
    def has_update(self) -> bool:
        """Whether it changes state by `update` itself."""
        return type(self).update is not Quantizer.update

    # Input, checked once

    def _depth(self, num_codebooks: int | None) -> int:
        if num_codebooks is None or as_integer(num_codebooks) == self.num_codebooks:
            return self.num_codebooks
        if not self.prefix_decodable:
            raise ShapeError(
                f"num_codebooks is {num_codebooks}; {type(self).__name__} always has {self.num_codebooks}"
            )
        depth = as_integer(num_codebooks)
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
        self._check_mask(mask, latents)
        return self._depth(num_codebooks)

    def _check_mask(self, mask: Tensor | None, given: Tensor) -> None:
        needed = (given.shape[0], given.shape[2])
        if mask is not None and (mask.dtype != torch.bool or mask.shape != needed):
            raise ShapeError(
                f"mask is {mask.dtype} {list(mask.shape)}; needed is bool [B, T] = {list(needed)}, "
                "True = real"
            )

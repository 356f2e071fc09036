"""The `Quantizer` base class, which plugin authors subclass.

A quantizer is two functions over plain vectors. `quantize` maps vectors `[M, D]` to values `[M, D]` and codes
`[M, N]`. `dequantize` maps codes back to values. The engine (`codecvq.quantizer.engine`) does the rest:
layout, padding masks, float32 under autocast, projection to the code dimension, the gradient estimator,
metrics, and input checks.

Optional methods, each with a default:

- `bound`: a differentiable map before quantization, such as tanh in FSQ.
- `terms`: losses and metrics.
- `update`: changes to state that is not learned by gradient, such as EMA codebooks.
- `stage_scale`: the grid step of residual stage n, for quantizers on a fixed grid.
- `codes_only`: codes without values, for `encode`.
- `candidates`: the best codes of a vector, for beam search.
- `code_levels`: the digits of codes, for the entropy coder.
- `code_tables`: learned code frequencies, for the entropy coder.

Class attributes such as `own_gradient` declare properties that the engine needs. Subclass `SequenceQuantizer`
for a method that needs whole sequences, and `ConditionalQuantizer` for a residual stage that depends on the
earlier stages.

Letters in shapes: B batch, D latent channels, T frames, N codebooks, K codebook size, M vectors (all valid
frames of a batch, one after another).
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
from codecvq.quantizer.tables import size_levels


class Quantizer(QuantizerBase):
    """Base class of all quantizers.

    Call a quantizer on latents `[B, D, T]` to quantize them; `encode` and `decode` convert between latents
    and codes. Subclasses implement `quantize` and `dequantize`.

    Args:
        dim: Number of latent channels D.
        codebook_sizes: Size K of each codebook.
        code_dim: Number of channels in which vectors are quantized. If it differs from `dim`, learned linear
            layers project in and out. The default is `dim`.
        estimator: Registered name of a gradient estimator. The default is "ste" (straight-through). With
            `own_gradient`, it must be None.

    Raises OptionError for values that are out of range.
    """

    #: True if the first n codebooks can be decoded alone, for every n (residual quantizers).
    prefix_decodable: bool = False
    #: True if residual stages share one fixed grid, which `stage_scale` makes finer from stage to stage. One
    #: projection and one `bound` then enclose all stages. False if each stage learns a codebook and has its
    #: own projection.
    refines: ClassVar[bool] = False
    #: True if `terms` uses collective operations of distributed training. Every process then calls it, so it
    #: must accept M = 0. If False, the engine calls it only with M of at least 1.
    collective: ClassVar[bool] = False
    #: True if the values of `quantize` are differentiable with respect to vectors and codebook, as in
    #: Gumbel-softmax, IBQ and NSVQ. The engine then returns them unchanged, without a gradient estimator.
    own_gradient: bool = False
    #: True if, in training mode, `quantize` returns other values than `dequantize` returns for its codes, as
    #: in noise substitution. In a residual stack only the last active stage of an item returns its training
    #: values; the earlier stages return decoded values.
    training_values_differ: bool = False
    #: True if results depend on `progress`. Then `progress` is part of the state dict.
    uses_progress: bool = False
    #: True if the number of codebooks may differ from frame to frame. Absent codes are -1, and only the last
    #: codes of a frame may be absent.
    variable_depth: bool = False
    #: True if a residual stage depends on the partial sum of earlier stages; see `ConditionalQuantizer`.
    uses_partial_sum: bool = False
    #: Left context and lookahead in frames: the other frames on which a frame's code and value depend.
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
                "gradient, so it would have no effect. Remove the option."
            )
        self.dim = dim
        self.code_dim = code_dim
        self.codebook_sizes = tuple(int(size) for size in codebook_sizes)
        self.config: dict[str, Any] = {}  # name and options, as passed to build_quantizer
        self.project_in: nn.Module = nn.Identity() if dim == code_dim else nn.Linear(dim, code_dim)
        self.project_out: nn.Module = nn.Identity() if dim == code_dim else nn.Linear(code_dim, dim)
        #: Name of the gradient estimator; None with `own_gradient`.
        self.estimator = None if self.own_gradient else estimator or "ste"
        self._estimator = None if self.estimator is None else find_estimator(self.estimator)
        self._monitor = GainMonitor(self.estimator or "")

    # Methods that subclasses implement

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Quantize vectors: `[M, D]` -> values `[M, D]` and codes int64 `[M, N]`.

        The input is finite float32, after `project_in` and `bound`; D is `code_dim`. M may be 0.

        Do not add a straight-through step: the engine applies the gradient estimator. If a codebook is
        learned by gradient, the values must be differentiable with respect to it, for the losses of `terms`.
        With `own_gradient`, the values also carry the gradient of all other losses to vectors and codebook.
        """
        raise NotImplementedError(f"{type(self).__name__} must define quantize(vectors) -> (values, codes)")

    def dequantize(self, codes: Tensor) -> Tensor:
        """Look up the values of codes: int64 `[M, N]`, in range -> `[M, D]`.

        The values must equal those that `quantize` returns together with these codes. Only quantizers with
        `training_values_differ` may return other values from `quantize`, in training mode.
        """
        raise NotImplementedError(f"{type(self).__name__} must define dequantize(codes) -> values")

    def codes_only(self, vectors: Tensor) -> Tensor:
        """Return only the codes of `quantize`: `[M, D]` -> int64 `[M, N]`. `encode` calls it.

        Override it if codes are cheaper to compute than values. The default calls `quantize`.
        """
        return self.quantize(vectors)[1]

    def bound(self, vectors: Tensor) -> Tensor:
        """Map vectors `[M, D]` differentiably before quantization, for example by tanh.

        The default is the identity. The gradient estimator acts after this map: gradients flow through
        `bound` in the usual way.
        """
        return vectors

    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        """Return losses and metrics of the vectors after `bound`. The default returns none.

        Losses are weighted 0-d tensors that training adds up. M is at least 1, except with `collective`.

        Args:
            vectors: Input of `quantize`, `[M, D]`, with gradient.
            values: Output of `quantize` or `dequantize`, `[M, D]`, before the gradient estimator.
            codes: int64 `[M, N]`.
        """
        return Terms()

    def update(self, vectors: Tensor, codes: Tensor) -> None:
        """Update state that is not learned by gradient, such as EMA codebooks. The default does nothing.

        The engine calls it without gradient, once per forward pass in training mode. With gradient
        accumulation, that is several times per optimizer step. It skips the call for a batch with NaN or
        infinity and for a frozen quantizer. In distributed training all processes call it together; M may be
        0 on some of them, but not on all.

        Args:
            vectors: Detached input of `quantize`, `[M, D]`.
            codes: int64 `[M, N]`.
        """

    def stage_scale(self, stage: int) -> Tensor | float:
        """Return the grid step of residual stage `stage` relative to the first: a number or `[D]`.

        It is below 1 for finer grids. Used only with `refines`.
        """
        return 1.0

    def candidates(self, vectors: Tensor, count: int) -> Tensor:
        """Return the codes of the `count` best values of each vector, best first.

        Shapes: `[M, D]` -> int64 `[M, count]`; `count` is at most K. Override it to support beam search in
        residual stacks.
        """
        raise NotImplementedError(f"{type(self).__name__} lists no candidates, so it has no beam search")

    def code_tables(self) -> CodeTables | None:
        """Return the learned code frequencies for the entropy coder of `.cvq` files, or None.

        Store the frequencies as integer buffers, so that they are saved with the weights; see `CodeTables`.
        """
        return None

    @property
    def code_levels(self) -> tuple[tuple[int, ...], ...]:
        """For each codebook the radices of the digits of its codes, least significant first.

        Override it if codes consist of several numbers, such as the levels of FSQ channels. The entropy coder
        then learns the frequencies of each of them. By default a code of at most 4096 values is one digit.
        """
        return tuple(size_levels(size) for size in self.codebook_sizes)

    # Methods that users call

    @property
    def bits_per_frame(self) -> float:
        """Bits per frame before entropy coding: the sum of log2(K) / stride over the codebooks."""
        sizes = zip(self.codebook_sizes, self.strides, strict=True)
        return sum(math.log2(size) / stride for size, stride in sizes)

    @property
    def num_codebooks(self) -> int:
        """Number of codebooks, N."""
        return len(self.codebook_sizes)

    @property
    def strides(self) -> tuple[int, ...]:
        """Number of frames per code, for each codebook; see `codecvq.quantizer.strides`."""
        return (1,) * self.num_codebooks

    @property
    def block_reach(self) -> Reach:
        """Left context and lookahead of a block of lcm(strides) frames as a whole, beyond the block.

        Streams process whole blocks. By default it is `reach`, which is sufficient for all frames of a block.
        """
        return self.reach

    def forward(
        self,
        latents: Tensor,
        mask: Tensor | None = None,
        num_codebooks: int | None = None,
        parts: bool = False,
    ) -> Quantized:
        """Quantize latents, and update the codebook state in training mode.

        Padding affects neither the values at valid frames nor losses, metrics or state. A non-finite frame is
        returned as NaN, so that the loss becomes NaN, and changes no state. Codes and values are computed
        before the update of this call.

        Args:
            latents: `[B, D, T]` of any floating-point type; computation is in float32.
            mask: Padding mask, bool `[B, T]`, True at valid frames.
            num_codebooks: Number of first codebooks to use; all by default. Needs `prefix_decodable`.
            parts: Whether to return what each codebook adds, in `Quantized.parts`.

        Returns a `Quantized`; its latents have the dtype of the input. Raises ShapeError for inputs of other
        shapes or types.
        """
        depth = self._check(latents, mask, num_codebooks)
        return engine.forward(self, latents, mask, depth, parts)

    def encode(self, latents: Tensor, num_codebooks: int | None = None, mask: Tensor | None = None) -> Tensor:
        """Return only the codes of latents: `[B, D, T]` -> int64 `[B, n, T]`, 0 at padding.

        In training mode, too, it changes no state and draws no random numbers. Raises NonFiniteError for NaN
        or infinity at a valid frame; the message names the first one.

        Args:
            latents: `[B, D, T]` of any floating-point type.
            num_codebooks: Number of first codebooks n; all by default. Needs `prefix_decodable`.
            mask: Padding mask, bool `[B, T]`. Codes at valid frames depend on it only if frames depend on
                neighboring frames.
        """
        depth = self._check(latents, mask, num_codebooks)
        return engine.encode(self, latents, depth, mask)

    def decode(self, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the latents of codes: integers `[B, n, T]` -> float32 `[B, D, T]`, 0 at padding.

        n is N, or less if the quantizer is `prefix_decodable`. Raises ShapeError for codes that are out of
        range or of another shape, and for codes that change within the block of a stride.

        Args:
            codes: `[B, n, T]`.
            mask: Padding mask, bool `[B, T]`.
        """
        codes = checked_codes(codes, self.num_codebooks)
        self._depth(codes.shape[1])
        self._check_mask(mask, codes)
        check_in_range(codes, self.codebook_sizes, self.variable_depth)
        if max(self.strides) > 1:
            check_blocks(codes, self.strides, mask)
        return engine.decode(self, codes, mask)

    # Methods that compositions override and call; see `codecvq.quantizer.engine`

    def to_code_space(self, vectors: Tensor) -> Tensor:
        """Project and bound vectors: `[M, D]` -> `[M, code_dim]`, the input of `quantize`."""
        return self.bound(self.project_in(vectors))

    def step(self, vectors: Tensor, context: Context, depth: int) -> Step:
        """Quantize vectors `[M, D]` with the first `depth` codebooks, for `forward`."""
        entered = self.to_code_space(vectors)
        values, codes = self.quantize_with_context(entered, context)
        terms = self.terms_of(entered, values, codes)
        passed = self.project_out(self.apply_estimator(entered, values))
        parts = (passed,) if context.parts and self.num_codebooks == 1 else None
        return Step(passed, codes, terms, self.updates_of(entered, codes), parts=parts)

    def vectors_to_codes(self, vectors: Tensor, context: Context, depth: int) -> Tensor:
        """Return the codes of vectors, for `encode`: `[M, D]` -> int64 `[M, depth]`."""
        return self.codes_with_context(self.to_code_space(vectors), context)

    def codes_to_vectors(self, codes: Tensor, context: Context) -> Tensor:
        """Return the values of codes, for `decode`: int64 `[M, n]` -> `[M, D]`."""
        return self.project_out(self.dequantize_with_context(codes, context))

    def quantize_with_context(self, vectors: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Call `quantize`. Quantizers that use the context (frames, partial sum) override it."""
        return self.quantize(vectors)

    def codes_with_context(self, vectors: Tensor, context: Context) -> Tensor:
        """Call `codes_only`, with a context."""
        return self.codes_only(vectors)

    def dequantize_with_context(self, codes: Tensor, context: Context) -> Tensor:
        """Call `dequantize`, with a context."""
        return self.dequantize(codes)

    def candidates_with_context(self, vectors: Tensor, count: int, context: Context) -> Tensor:
        """Call `candidates`, with a context."""
        return self.candidates(vectors, count)

    @property
    def lists_candidates(self) -> bool:
        """Whether the quantizer implements `candidates`, so that residual stacks can use beam search."""
        return type(self).candidates is not Quantizer.candidates

    def apply_estimator(self, vectors: Tensor, values: Tensor) -> Tensor:
        """Attach the estimator's gradient from `values` to `vectors`: `[M, D]` -> `[M, D]`.

        Returns `values` unchanged with `own_gradient`.
        """
        if self._estimator is None:
            return values
        return estimate(self._estimator, vectors, values, self._monitor if self.training else None)

    def terms_of(self, entered: Tensor, values: Tensor, codes: Tensor) -> Terms:
        """Return the terms of a step. If M is 0, returns zeros under the usual names, unless `collective`."""
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
        """Return the pending update of this step, or an empty list if the quantizer has no `update`.

        The engine runs it after the check that all vectors are finite.
        """
        return [(self, entered.detach(), codes)] if self.has_update else []

    def quantizers(self) -> list[Quantizer]:
        """Return this quantizer and every quantizer inside it."""
        return [member for member in self.modules() if isinstance(member, Quantizer)]

    @property
    def has_update(self) -> bool:
        """Whether this quantizer itself overrides `update`."""
        return type(self).update is not Quantizer.update

    # Input checks

    def _depth(self, num_codebooks: int | None) -> int:
        if num_codebooks is None or as_integer(num_codebooks) == self.num_codebooks:
            return self.num_codebooks
        if not self.prefix_decodable:
            raise ShapeError(
                f"num_codebooks is {num_codebooks}; {type(self).__name__} always has {self.num_codebooks}"
            )
        depth = as_integer(num_codebooks)
        if depth is None or not 1 <= depth <= self.num_codebooks:
            raise ShapeError(f"num_codebooks is {num_codebooks!r}; give 1 to {self.num_codebooks}")
        return depth

    def _check(self, latents: Tensor, mask: Tensor | None, num_codebooks: int | None) -> int:
        if latents.ndim != 3 or latents.shape[1] != self.dim or not latents.is_floating_point():
            raise ShapeError(
                f"latents are {latents.dtype} {list(latents.shape)}; needed are floats [B, D, T] with "
                f"D={self.dim}. For [..., D] use codecvq.quantizer.ChannelsLast."
            )
        self._check_mask(mask, latents)
        return self._depth(num_codebooks)

    def _check_mask(self, mask: Tensor | None, given: Tensor) -> None:
        needed = (given.shape[0], given.shape[2])
        if mask is not None and (mask.dtype != torch.bool or mask.shape != needed):
            raise ShapeError(
                f"mask is {mask.dtype} {list(mask.shape)}; needed is bool [B, T] = {list(needed)}, "
                "True = valid"
            )

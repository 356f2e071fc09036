"""Checks of outputs: shapes, dtypes, code ranges, and the round trip from latents to codes and back.

The first line of each docstring states the guarantee.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from codecvq.errors import NonFiniteError, ShapeError
from codecvq.quantizer import Context, Quantizer
from codecvq.testing.case import QuantizerCase, block_length, is_composition
from codecvq.testing.check import about, expect, expect_close, expect_equal, expect_error

SEEDS = 4  # batches tried to find training values that differ from decoded ones
ALL_CODES = 4096  # codebooks up to this size are decoded completely, larger ones are sampled


@about("__init__")
def builds(case: QuantizerCase) -> None:
    """It can be built; `dim`, `codebook_sizes`, `strides`, `code_levels` and `bits_per_frame` match."""
    quantizer = case.build()
    sizes = quantizer.codebook_sizes
    expect(quantizer.dim == case.options["dim"], f"dim is {quantizer.dim}, not {case.options['dim']}")
    expect(
        len(sizes) == quantizer.num_codebooks,
        f"num_codebooks is {quantizer.num_codebooks}, codebook_sizes {sizes}",
    )
    expect(
        len(quantizer.strides) == len(sizes) and min(quantizer.strides) >= 1,
        f"strides are {quantizer.strides}; each of the {len(sizes)} codebooks needs a stride of at least 1",
    )
    levels = quantizer.code_levels
    expect(
        len(levels) == len(sizes) and all(math.prod(own) >= k for own, k in zip(levels, sizes, strict=True)),
        f"code_levels are {levels}; each of the {len(sizes)} codebooks needs radices with a product of K or "
        "more",
    )
    bits = sum(math.log2(size) / stride for size, stride in zip(sizes, quantizer.strides, strict=True))
    expect(
        math.isclose(quantizer.bits_per_frame, bits),
        f"bits_per_frame is {quantizer.bits_per_frame}, not Σ log2 K / stride = {bits}",
    )


def shapes(case: QuantizerCase) -> None:
    """Latents are [B, D, T] in the input dtype, codes [B, N, T] int64, losses and metrics 0-d and finite."""
    if not is_composition(case.build()):
        _expect_method_shapes(case.build().eval(), case.latents())
    for name, quantizer in case.new_and_trained():
        for mode in (True, False):
            latents = case.latents()
            out = quantizer.train(mode)(latents)
            what = f"{name}, {'train' if mode else 'eval'}"
            expect(
                out.latents.shape == latents.shape,
                f"{what}: latents {list(out.latents.shape)} for {list(latents.shape)}",
            )
            expect(out.latents.dtype == latents.dtype, f"{what}: latents are {out.latents.dtype}")
            expect(bool(out.latents.isfinite().all()), f"{what}: latents are non-finite")
            _expect_codes(quantizer, out.codes, latents, what)
            _expect_scalars(out.losses, f"{what}: loss")
            _expect_scalars(out.metrics, f"{what}: metric")
            _expect_codes(quantizer, quantizer.encode(latents), latents, f"{what}: encode")
            expect(
                "perplexity" in out.metrics and "usage" in out.metrics,
                f"{what}: metrics are {sorted(out.metrics)}, without perplexity or usage",
            )


def codes_in_range(case: QuantizerCase) -> None:
    """Codes are in 0 … K - 1 and values are finite, for latents of any scale."""
    quantizer = case.trained().eval()
    for scale in (0.0, 1e-20, 1e-3, 1.0, 30.0, 1e4, 1e15):
        out = quantizer(case.latents() * scale)
        _expect_codes(quantizer, out.codes, out.latents, f"latents times {scale:g}")
        expect(bool(out.latents.isfinite().all()), f"latents times {scale:g}: values are non-finite")


def round_trip(case: QuantizerCase) -> None:
    """In eval, decode(encode(z)) is bit-identical to the latents of forward(z), and the codes are equal."""
    for name, quantizer in case.new_and_trained():
        quantizer.eval()
        latents = case.latents()
        out = quantizer(latents)
        codes = quantizer.encode(latents)
        expect_equal(codes, out.codes, f"{name}: codes of encode, compared with forward's")
        expect_equal(
            quantizer.decode(codes),
            out.latents,
            f"{name}: decode(encode(z)), compared with forward(z).latents",
        )


@about("quantize", "dequantize")
def training_values(case: QuantizerCase) -> None:
    """In training, forward returns the values that decode gives for its codes."""
    case = case.without_dropout()
    training, before = case.trained(), case.trained().eval()
    out = training(case.latents())
    expect_close(
        out.latents,
        before.decode(out.codes),
        "latents in training, compared with decode of their codes (declare training_values_differ = True "
        "if the method needs this)",
    )


@about("quantize")
def training_values_differ(case: QuantizerCase) -> None:
    """With `training_values_differ`, training values differ from decoded ones; in eval they are equal."""
    case = case.without_dropout()
    same = True
    for seed in range(SEEDS):
        training, before = case.trained(seed), case.trained(seed).eval()
        latents = case.latents(seed=seed)
        out = training(latents)
        same = same and torch.allclose(out.latents, before.decode(out.codes), rtol=1e-5, atol=1e-6)
    expect(
        not same,
        f"training_values_differ is True, but in {SEEDS} training batches the values equal those of decode. "
        "Remove it.",
    )
    out = before(latents)
    expect_equal(before.decode(out.codes), out.latents, "values in eval, compared with decode of their codes")


@about("dequantize", "quantize")
@torch.no_grad()
def dequantize_matches_quantize(case: QuantizerCase) -> None:
    """`dequantize` returns the values that `quantize` gives for its codes; `codes_only` returns the codes."""
    for name, quantizer in case.new_and_trained():
        quantizer.eval()
        vectors = quantizer.to_code_space(case.latents().transpose(1, 2).flatten(0, 1))
        frames = Context.of_one_item(len(vectors), vectors.device)
        partial_sum = case.latents(seed=2).transpose(1, 2).flatten(0, 1)  # for conditional stages
        for what, context in {
            "": frames,
            ", with a partial sum": replace(frames, partial_sum=partial_sum),
        }.items():
            values, codes = quantizer.quantize_with_context(vectors, context)
            decoded = quantizer.dequantize_with_context(codes, context)
            expect_close(decoded, values, f"{name}: values of dequantize, and of quantize{what}")
            expect_equal(quantizer.codes_with_context(vectors, context), codes, f"{name}: codes_only{what}")


@about("dequantize")
def every_code_decodes(case: QuantizerCase) -> None:
    """Every code (a sample above 4,096) decodes to finite values, identically each time."""
    quantizer = case.trained().eval()
    smallest = min(quantizer.codebook_sizes)
    count = min(ALL_CODES, max(quantizer.codebook_sizes))
    steps = torch.arange(count)
    columns = [_spread_codes(steps, size, count) for size in quantizer.codebook_sizes]
    block = block_length(quantizer)
    codes = torch.stack(columns)[None].repeat_interleave(block, dim=2)  # [1, N, count · block]
    values = quantizer.decode(codes)
    expect(
        values.shape == (1, quantizer.dim, codes.shape[2]),
        f"decode of {list(codes.shape)} gave {list(values.shape)}",
    )
    expect(
        bool(values.isfinite().all()),
        f"some codes decode to non-finite values (smallest codebook {smallest})",
    )
    expect_equal(quantizer.decode(codes), values, "second decode of the same codes")


def empty_input(case: QuantizerCase) -> None:
    """T = 0 and B = 0 work, in training and in eval; losses are 0."""
    for batch, frames in ((2, 0), (0, 5)):
        for name, quantizer in case.new_and_trained():
            for mode in (True, False):
                latents = case.latents(batch, frames).requires_grad_()
                out = quantizer.train(mode)(latents)
                what = f"{name}, {'train' if mode else 'eval'}, B={batch}, T={frames}"
                _expect_codes(quantizer, out.codes, latents, what)
                expect(out.latents.shape == latents.shape, f"{what}: latents {list(out.latents.shape)}")
                for loss, value in out.losses.items():
                    expect(
                        float(value.detach()) == 0.0, f"{what}: loss {loss} is {float(value.detach())}, not 0"
                    )
                codes = quantizer.encode(latents)
                expect(quantizer.decode(codes).shape == latents.shape, f"{what}: decode")


def one_frame(case: QuantizerCase) -> None:
    """T = 1 and B = 1 work, in training and in eval, even in the first batch."""
    for name, quantizer in case.new_and_trained():
        for mode in (True, False):
            latents = case.latents(1, 1)
            out = quantizer.train(mode)(latents)
            what = f"{name}, {'train' if mode else 'eval'}, one frame"
            _expect_codes(quantizer, out.codes, latents, what)
            expect(bool(out.latents.isfinite().all()), f"{what}: values are non-finite")


def wrong_latents(case: QuantizerCase) -> None:
    """Latents or masks of the wrong shape or dtype raise ShapeError."""
    quantizer = case.build()
    latents = case.latents(2, quantizer.dim + 1)
    mask = torch.ones(2, quantizer.dim + 1, dtype=torch.bool)
    for what, wrong in {
        "[B, T, D] for [B, D, T]": latents.transpose(1, 2),
        "latents [D, T]": latents[0],
        "integer latents": latents.long(),
    }.items():
        expect_error(ShapeError, partial(quantizer, wrong), what)
        expect_error(ShapeError, partial(quantizer.encode, wrong), f"encode of {what}")
    for what, wrong in {
        "mask [B, 1, T]": mask[:, None],
        "float mask": mask.float(),
        "mask one frame too short": mask[:, 1:],
    }.items():
        expect_error(ShapeError, partial(quantizer, latents, wrong), what)


@about("decode", "dequantize")
def wrong_codes(case: QuantizerCase) -> None:
    """Codes out of range, of the wrong shape or dtype, raise ShapeError instead of decoding."""
    quantizer = case.trained().eval()
    codes = quantizer.encode(case.latents(2, 3))
    for n, size in enumerate(quantizer.codebook_sizes):
        for bad in (-2 if quantizer.variable_depth else -1, size):
            wrong = codes.clone()
            wrong[1, n] = bad
            expect_error(
                ShapeError,
                partial(quantizer.decode, wrong),
                f"code {bad} in codebook {n} of {size}",
            )
    expect_error(ShapeError, partial(quantizer.decode, codes.float()), "float codes")
    expect_error(ShapeError, partial(quantizer.decode, codes[0]), "codes [N, T]")
    expect_error(
        ShapeError,
        partial(quantizer.decode, torch.cat([codes, codes[:, :1]], dim=1)),
        "one codebook too many",
    )


@about("encode", "quantize")
def non_finite_encode(case: QuantizerCase) -> None:
    """`encode` raises NonFiniteError for NaN or infinity in the latents."""
    quantizer = case.trained().eval()
    for bad in (math.nan, math.inf, -math.inf):
        latents = case.latents(2, 3)
        latents[1, 0, 2] = bad
        expect_error(NonFiniteError, partial(quantizer.encode, latents), f"encode of {bad}")


TESTS = (
    codes_in_range,
    round_trip,
    every_code_decodes,
    empty_input,
    one_frame,
    wrong_latents,
    wrong_codes,
    non_finite_encode,
)


@torch.no_grad()
def _expect_method_shapes(quantizer: Quantizer, latents: Tensor) -> None:
    """Check the results of the plugin's own methods, before other checks depend on them."""
    vectors = quantizer.to_code_space(latents.transpose(1, 2).flatten(0, 1))
    context = Context.of_one_item(len(vectors), vectors.device)
    expect(
        vectors.shape == (len(vectors), quantizer.code_dim),
        f"bound gave {list(vectors.shape)}, not [M, D] = {[len(vectors), quantizer.code_dim]}",
    )
    values, codes = quantizer.quantize_with_context(vectors, context)
    needed = [len(vectors), quantizer.num_codebooks]
    expect(
        list(codes.shape) == needed and codes.dtype == torch.int64,
        f"codes of quantize are {codes.dtype} {list(codes.shape)}, not int64 [M, N] = {needed}",
    )
    for what, got in {
        "quantize": values,
        "dequantize": quantizer.dequantize_with_context(codes, context),
    }.items():
        expect(
            got.shape == vectors.shape,
            f"values of {what} are {list(got.shape)}, not [M, D] = {list(vectors.shape)}",
        )


def _expect_codes(quantizer: Quantizer, codes: Tensor, latents: Tensor, what: str) -> None:
    needed = (latents.shape[0], quantizer.num_codebooks, latents.shape[2])
    expect(tuple(codes.shape) == needed, f"{what}: codes {list(codes.shape)}, not {list(needed)}")
    expect(codes.dtype == torch.int64, f"{what}: codes are {codes.dtype}, not int64")
    for n, size in enumerate(quantizer.codebook_sizes):
        part = codes[:, n]
        if part.numel():
            low, high = int(part.min()), int(part.max())
            least = -1 if quantizer.variable_depth else 0
            expect(
                low >= least and high < size,
                f"{what}: codes of codebook {n} span {low} … {high}; K is {size}",
            )


def _expect_scalars(scalars: dict[str, Tensor], what: str) -> None:
    for name, value in scalars.items():
        expect(
            isinstance(value, Tensor) and value.ndim == 0, f"{what} {name!r} is {value!r}, not a 0-d tensor"
        )
        expect(bool(value.isfinite()), f"{what} {name!r} is {float(value.detach())}")


def _spread_codes(steps: Tensor, size: int, count: int) -> Tensor:
    """`count` codes from 0 to K - 1; all of them if K is at most `count`."""
    if size <= count:
        return steps % size
    return torch.tensor([int(step) * (size - 1) // (count - 1) for step in steps])

"""Checks of what comes out: shapes, types, codes, and the way there and back.

The first line of each says the promise.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from codecvq.errors import NonFiniteError, ShapeError
from codecvq.quantizer import Quantizer
from codecvq.testing.check import expect, expect_close, expect_equal, expect_error
from codecvq.testing.subject import Subject

ALL_CODES = 4096  # codes of one codebook that are all decoded; of larger ones, a sample


def builds(subject: Subject) -> None:
    """It can be made, and says dim, codebook sizes and bits per frame."""
    quantizer = subject.build()
    sizes = quantizer.codebook_sizes
    expect(quantizer.dim == subject.options["dim"], f"dim is {quantizer.dim}, not {subject.options['dim']}")
    expect(
        len(sizes) == quantizer.num_codebooks,
        f"num_codebooks is {quantizer.num_codebooks}, codebook_sizes {sizes}",
    )
    bits = sum(math.log2(size) for size in sizes)
    expect(
        math.isclose(quantizer.bits_per_frame, bits),
        f"bits_per_frame is {quantizer.bits_per_frame}, Σ log2 K {bits}",
    )


def shapes(subject: Subject) -> None:
    """Latents [B, D, T] of the input's type, codes [B, N, T] int64, losses and metrics 0-d and finite."""
    for name, quantizer in subject.both():
        for mode in (True, False):
            latents = subject.latents()
            out = quantizer.train(mode)(latents)
            what = f"{name}, {'train' if mode else 'eval'}"
            expect(
                out.latents.shape == latents.shape,
                f"{what}: latents {list(out.latents.shape)} for {list(latents.shape)}",
            )
            expect(out.latents.dtype == latents.dtype, f"{what}: latents are {out.latents.dtype}")
            expect(bool(out.latents.isfinite().all()), f"{what}: latents are not finite")
            _expect_codes(quantizer, out.codes, latents, what)
            _expect_scalars(out.losses, f"{what}: loss")
            _expect_scalars(out.metrics, f"{what}: metric")
            _expect_codes(quantizer, quantizer.encode(latents), latents, f"{what}: encode")
            expect(
                "perplexity" in out.metrics and "usage" in out.metrics,
                f"{what}: metrics are {sorted(out.metrics)}",
            )


def codes_in_range(subject: Subject) -> None:
    """Codes lie in 0 … K - 1 and values are finite for latents of any size."""
    quantizer = subject.trained().eval()
    for scale in (0.0, 1e-20, 1e-3, 1.0, 30.0, 1e4, 1e15):
        out = quantizer(subject.latents() * scale)
        _expect_codes(quantizer, out.codes, out.latents, f"latents times {scale:g}")
        expect(bool(out.latents.isfinite().all()), f"latents times {scale:g}: values are not finite")


def round_trip(subject: Subject) -> None:
    """decode(encode(z)) equals the latents of forward(z) in eval, bit for bit, and so do the codes."""
    for name, quantizer in subject.both():
        quantizer.eval()
        latents = subject.latents()
        out = quantizer(latents)
        codes = quantizer.encode(latents)
        expect_equal(codes, out.codes, f"{name}: codes of encode, compared with forward's")
        expect_equal(
            quantizer.decode(codes),
            out.latents,
            f"{name}: decode(encode(z)), compared with forward(z).latents",
        )


def training_values(subject: Subject) -> None:
    """What training sees is what decoding gives: latents of forward in training are those of its codes."""
    subject = subject.settled()
    training, before = subject.trained(), subject.trained().eval()
    out = training(subject.latents())
    expect_close(
        out.latents, before.decode(out.codes), "latents in training, compared with decode of their codes"
    )


def every_code_decodes(subject: Subject) -> None:
    """Every code of every codebook decodes to finite values, the same each time."""
    quantizer = subject.trained().eval()
    smallest = min(quantizer.codebook_sizes)
    count = min(ALL_CODES, max(quantizer.codebook_sizes))
    steps = torch.arange(count)
    columns = [_spread(steps, size, count) for size in quantizer.codebook_sizes]
    codes = torch.stack(columns)[None]  # [1, N, count]
    values = quantizer.decode(codes)
    expect(
        values.shape == (1, quantizer.dim, count), f"decode of {list(codes.shape)} gave {list(values.shape)}"
    )
    expect(
        bool(values.isfinite().all()), f"values of some code are not finite (smallest codebook {smallest})"
    )
    expect_equal(quantizer.decode(codes), values, "decode a second time")


def no_frames(subject: Subject) -> None:
    """T = 0 and B = 0 work, in training and in eval; nothing is learned from them and losses are 0."""
    for batch, frames in ((2, 0), (0, 5)):
        for name, quantizer in subject.both():
            for mode in (True, False):
                latents = subject.latents(batch, frames).requires_grad_()
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


def one_frame(subject: Subject) -> None:
    """T = 1 and B = 1 work, in training and in eval, also on the very first batch."""
    for name, quantizer in subject.both():
        for mode in (True, False):
            latents = subject.latents(1, 1)
            out = quantizer.train(mode)(latents)
            what = f"{name}, {'train' if mode else 'eval'}, one frame"
            _expect_codes(quantizer, out.codes, latents, what)
            expect(bool(out.latents.isfinite().all()), f"{what}: values are not finite")


def frames_are_independent(subject: Subject) -> None:
    """What becomes of a frame depends on no other frame: an utterance can be cut anywhere."""
    quantizer = subject.trained().eval()
    latents = subject.latents(2, 6)
    whole = quantizer.decode(quantizer.encode(latents))
    for t in range(latents.shape[2]):
        alone = quantizer.decode(quantizer.encode(latents[:, :, t : t + 1]))
        # Values, not codes: two codewords in one place are chosen between by how a sum was rounded.
        expect_close(alone, whole[:, :, t : t + 1], f"values of frame {t} alone, compared with the whole")


def wrong_latents(subject: Subject) -> None:
    """Latents or masks of another shape or type are a ShapeError."""
    quantizer = subject.build()
    latents = subject.latents(2, quantizer.dim + 1)
    mask = torch.ones(2, quantizer.dim + 1, dtype=torch.bool)
    for what, wrong in {
        "[B, T, D] for [B, D, T]": latents.transpose(1, 2),
        "latents [D, T]": latents[0],
        "latents of whole numbers": latents.long(),
    }.items():
        expect_error(ShapeError, partial(quantizer, wrong), what)
        expect_error(ShapeError, partial(quantizer.encode, wrong), f"encode of {what}")
    for what, wrong in {
        "mask [B, 1, T]": mask[:, None],
        "mask of floats": mask.float(),
        "mask too short": mask[:, 1:],
    }.items():
        expect_error(ShapeError, partial(quantizer, latents, wrong), what)


def wrong_codes(subject: Subject) -> None:
    """Codes out of range, of another shape or type, are a ShapeError: never a value."""
    quantizer = subject.trained().eval()
    codes = quantizer.encode(subject.latents(2, 3))
    for n, size in enumerate(quantizer.codebook_sizes):
        for bad in (-1, size):
            wrong = codes.clone()
            wrong[1, n, 2] = bad
            expect_error(
                ShapeError,
                partial(quantizer.decode, wrong),
                f"code {bad} in codebook {n} of {size}",
            )
    expect_error(ShapeError, partial(quantizer.decode, codes.float()), "codes of floats")
    expect_error(ShapeError, partial(quantizer.decode, codes[0]), "codes [N, T]")
    expect_error(
        ShapeError,
        partial(quantizer.decode, torch.cat([codes, codes[:, :1]], dim=1)),
        "one codebook too many",
    )


def non_finite_encode(subject: Subject) -> None:
    """NaN or infinity in the latents is a NonFiniteError of encode."""
    quantizer = subject.trained().eval()
    for bad in (math.nan, math.inf, -math.inf):
        latents = subject.latents(2, 3)
        latents[1, 0, 2] = bad
        expect_error(NonFiniteError, partial(quantizer.encode, latents), f"encode of {bad}")


TESTS = (
    codes_in_range,
    round_trip,
    training_values,
    every_code_decodes,
    no_frames,
    one_frame,
    frames_are_independent,
    wrong_latents,
    wrong_codes,
    non_finite_encode,
)


def _expect_codes(quantizer: Quantizer, codes: Tensor, latents: Tensor, what: str) -> None:
    needed = (latents.shape[0], quantizer.num_codebooks, latents.shape[2])
    expect(tuple(codes.shape) == needed, f"{what}: codes {list(codes.shape)}, not {list(needed)}")
    expect(codes.dtype == torch.int64, f"{what}: codes are {codes.dtype}, not int64")
    for n, size in enumerate(quantizer.codebook_sizes):
        part = codes[:, n]
        if part.numel():
            low, high = int(part.min()), int(part.max())
            expect(
                low >= 0 and high < size, f"{what}: codes of codebook {n} span {low} … {high}; K is {size}"
            )


def _expect_scalars(scalars: dict[str, Tensor], what: str) -> None:
    for name, value in scalars.items():
        expect(
            isinstance(value, Tensor) and value.ndim == 0, f"{what} {name!r} is {value!r}, not a 0-d tensor"
        )
        expect(bool(value.isfinite()), f"{what} {name!r} is {float(value.detach())}")


def _spread(steps: Tensor, size: int, count: int) -> Tensor:
    """`count` codes from 0 to K - 1, all of them where there are no more."""
    if size <= count:
        return steps % size
    return torch.tensor([int(step) * (size - 1) // (count - 1) for step in steps])

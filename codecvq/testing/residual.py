"""Checks of residual quantizers: any depth, quantizer dropout, finer grids.

The first line of each says the promise.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from codecvq.errors import ShapeError
from codecvq.quantizer import Quantizer, Residual
from codecvq.testing.check import expect, expect_close, expect_equal, expect_error
from codecvq.testing.subject import Subject

ITEMS = 64  # of a batch with quantizer dropout


def prefix(subject: Subject) -> None:
    """The first n codebooks are a prefix of all N: in encode, in decode and in forward."""
    for name, quantizer in subject.both():
        quantizer.eval()
        latents = subject.latents()
        codes = quantizer.encode(latents)
        for n in range(1, quantizer.num_codebooks + 1):
            what = f"{name}, {n} of {quantizer.num_codebooks} codebooks"
            expect_equal(quantizer.encode(latents, num_codebooks=n), codes[:, :n], f"{what}: codes")
            out = quantizer(latents, num_codebooks=n)
            expect_equal(out.codes, codes[:, :n], f"{what}: codes of forward")
            expect_equal(
                quantizer.decode(codes[:, :n]), out.latents, f"{what}: decode, compared with forward"
            )


def depth_is_checked(subject: Subject) -> None:
    """A depth of 0, or beyond N, is a ShapeError."""
    quantizer, latents = subject.trained().eval(), subject.latents()
    for n in (0, quantizer.num_codebooks + 1):
        expect_error(ShapeError, partial(quantizer.encode, latents, num_codebooks=n), f"encode with {n}")
        expect_error(ShapeError, partial(quantizer, latents, num_codebooks=n), f"forward with {n}")


def training_depth(subject: Subject) -> None:
    """Training with fewer codebooks gives the values of those codebooks, and finite losses."""
    for n in range(1, subject.build().num_codebooks + 1):
        quantizer, before = subject.trained(), subject.trained().eval()
        out = quantizer(subject.latents(), num_codebooks=n)
        expect(out.codes.shape[1] == n, f"{n} codebooks in training: codes {list(out.codes.shape)}")
        expect_close(
            out.latents, before.decode(out.codes), f"{n} codebooks in training: latents, compared with decode"
        )
        for loss, value in out.losses.items():
            expect(
                bool(value.isfinite()), f"{n} codebooks in training: loss {loss} is {float(value.detach())}"
            )


def dropout_per_item(subject: Subject) -> None:
    """With quantizer dropout each item keeps its own number of codebooks, one for all its frames."""
    quantizer, before = subject.trained(dropout=1.0), subject.trained(dropout=1.0).eval()
    latents = subject.latents(ITEMS, 4)
    out = quantizer(latents)
    depths = [_depth(before, out.latents[b : b + 1], out.codes[b : b + 1]) for b in range(ITEMS)]
    unknown = [b for b, depth in enumerate(depths) if depth == 0]
    expect(not unknown, f"items {unknown[:5]} are no sum of their first codebooks")
    for b, depth in enumerate(depths):
        expect(
            not bool(out.codes[b, depth:].any()),
            f"item {b} keeps {depth} codebooks, and codes of the dropped ones are not 0",
        )
    kept = sorted(set(depths))
    expect(
        kept == list(range(1, quantizer.num_codebooks + 1)),
        f"{ITEMS} items with dropout 1 keep {kept} codebooks, not each of 1 to {quantizer.num_codebooks}",
    )


def dropout_off_in_eval(subject: Subject) -> None:
    """Quantizer dropout changes nothing in eval, and encode always gives all codebooks."""
    dropping, plain = subject.build(dropout=1.0).eval(), subject.build(dropout=0.0).eval()
    latents = subject.latents()
    expect_equal(dropping(latents).codes, plain(latents).codes, "codes in eval, with and without dropout")
    expect_equal(
        dropping(latents).latents, plain(latents).latents, "latents in eval, with and without dropout"
    )
    expect_equal(
        dropping.train().encode(latents), plain.encode(latents), "encode in training mode with dropout"
    )


def refinement(subject: Subject) -> None:
    """Each stage of a refining grid (`refines`, `stage_scale`) comes closer to the bounded vector."""
    quantizer = subject.trained().eval()
    vectors = subject.latents(8, 32).transpose(1, 2).flatten(0, 1)
    with torch.no_grad():
        target = quantizer.enter(vectors)
        codes = quantizer.encode(vectors.T[None])[0].T
        errors = [
            float((quantizer.dequantize(codes[:, :n]) - target).square().mean())
            for n in range(1, codes.shape[1] + 1)
        ]
    shown = ", ".join(f"{error:.3g}" for error in errors)
    expect(
        all(b < a for a, b in pairwise(errors)),
        f"mean squared errors after 1, 2, … stages: {shown}",
    )


def refining(quantizer: Quantizer) -> bool:
    """Whether it is a stack of stages on ever finer grids."""
    return isinstance(quantizer, Residual) and quantizer.stage(0).refines


TESTS = (prefix, depth_is_checked, training_depth, dropout_per_item, dropout_off_in_eval)


def _depth(quantizer: Quantizer, latents: Tensor, codes: Tensor) -> int:
    """How many codebooks `[1, D, T]` latents are the sum of; the most that fit, 0 where none do."""
    for n in range(codes.shape[1], 0, -1):
        decoded = quantizer.decode(codes[:, :n])
        if torch.allclose(decoded, latents, rtol=1e-4, atol=1e-4):
            return n
    return 0

"""Checks of training: gradients, losses, and the effect of non-finite input.

The first line of each docstring states the guarantee.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from codecvq.quantizer import ConditionalQuantizer, Grouped, Quantizer, Residual
from codecvq.testing.case import (
    QuantizerCase,
    comparable_modes,
    expect_same_state,
    has_independent_frames,
    state_of,
)
from codecvq.testing.check import about, expect, expect_close

MAX_GAIN = 1000.0  # limit of |input gradient| / |output gradient| for any latents


@about("bound", "quantize", "terms")
def gradient(case: QuantizerCase) -> None:
    """A finite gradient reaches the latents and every parameter."""
    for name, quantizer in case.new_and_trained():
        latents = case.latents().requires_grad_()
        out = quantizer(latents)
        torch.stack(
            [(out.latents * _upstream_gradient(latents)).sum(), *out.losses.values()]
        ).sum().backward()
        expect(
            latents.grad is not None and bool(latents.grad.any()), f"{name}: no gradient reaches the latents"
        )
        expect(bool(latents.grad.isfinite().all()), f"{name}: the gradient of the latents is non-finite")  # type: ignore[union-attr]
        for parameter, value in quantizer.named_parameters():
            expect(value.grad is not None, f"{name}: parameter {parameter} gets no gradient")
            expect(bool(value.grad.isfinite().all()), f"{name}: the gradient of {parameter} is non-finite")  # type: ignore[union-attr]


@about("bound", "quantize")
def gradient_at_edges(case: QuantizerCase) -> None:
    """The gradient stays finite and bounded for zero, tiny and huge latents and for latents on codewords."""
    quantizer = case.trained()
    latents = case.latents()
    on_codewords = quantizer.decode(quantizer.encode(latents)).detach()
    for what, edge in {
        "zero": torch.zeros_like(latents),
        "tiny": latents * 1e-12,
        "huge": latents * 1e6,
        "on codewords": on_codewords,
        "opposite to codewords": -on_codewords,
    }.items():
        edge = edge.requires_grad_()
        out = quantizer(edge)
        upstream = _upstream_gradient(edge)
        (got,) = torch.autograd.grad((out.latents * upstream).sum(), edge)
        expect(bool(got.isfinite().all()), f"latents {what}: the gradient is non-finite")
        gain = float((got.norm(dim=1) / upstream.norm(dim=1)).max())
        expect(
            gain <= MAX_GAIN,
            f"latents {what}: the input gradient is {gain:g} times as long as the output gradient, more than "
            f"{MAX_GAIN:g}",
        )


def gradient_gain(case: QuantizerCase) -> None:
    """With straight-through, the gradient is the same as if each choice were the identity, not a multiple."""
    case = case.without_dropout()  # dropped stages have no gradient to compare
    quantizer, before = case.trained(), case.trained()
    latents = case.latents(2, 5).requires_grad_()
    upstream = _upstream_gradient(latents)
    out = quantizer(latents)
    (got,) = torch.autograd.grad((out.latents * upstream).sum(), latents)
    vectors, codes = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (latents, out.codes))
    identity = _with_identity_choice(before, vectors, codes).unflatten(0, (2, 5)).transpose(1, 2)
    (needed,) = torch.autograd.grad((identity * upstream).sum(), latents)
    gain = float((got * needed).sum() / needed.square().sum().clamp(min=1e-30))
    expect_close(got, needed, f"gradient, with a gain of {gain:.3g} instead of 1", tolerance=1e-4)


@about("terms")
def loss_names(case: QuantizerCase) -> None:
    """Loss names are the same in every training step and in eval."""
    quantizer = case.build()
    names = [sorted(quantizer(case.latents(seed=seed)).losses) for seed in range(3)]
    names.append(sorted(quantizer.eval()(case.latents()).losses))
    expect(all(each == names[0] for each in names), f"losses of three steps and of eval are {names}")


@about("terms")
def losses_are_means(case: QuantizerCase) -> None:
    """Losses are means over vectors, not sums: repeating each item leaves them unchanged."""
    quantizer = case.without_dropout().trained()
    for mode in comparable_modes(quantizer):
        once, twice = copy.deepcopy(quantizer.train(mode)), copy.deepcopy(quantizer)
        latents = case.latents()
        needed, got = once(latents).losses, twice(torch.cat([latents, latents])).losses
        for loss, value in needed.items():
            what = f"{'train' if mode else 'eval'}: loss {loss} of a batch that has each item twice"
            expect_close(got[loss], value, what, tolerance=1e-4)


@about("terms")
def metrics_are_detached(case: QuantizerCase) -> None:
    """Metrics carry no gradient, so that storing them does not keep the graph alive."""
    out = case.trained()(case.latents().requires_grad_())
    attached = [name for name, value in out.metrics.items() if value.requires_grad]
    expect(not attached, f"metrics {attached} carry a gradient")


def non_finite_training(case: QuantizerCase) -> None:
    """A non-finite frame shows in latents or losses, changes no state and affects no other frame."""
    for bad in (math.nan, math.inf):
        for name, quantizer in case.new_and_trained():
            before, latents = state_of(quantizer), case.latents()
            latents[0, :, 2] = bad
            out = quantizer(latents)
            shown = not bool(out.latents[0, :, 2].isfinite().any()) or any(
                not bool(v.isfinite()) for v in out.losses.values()
            )
            expect(shown, f"{name}: a frame of {bad} gives finite latents and losses, which hides it")
            others = [*out.latents[1:]]
            if has_independent_frames(quantizer):
                others += [out.latents[0, :, :2], out.latents[0, :, 3:]]
            expect(
                bool(torch.cat(others, dim=1).isfinite().all()),
                f"{name}: a frame of {bad} makes other frames non-finite",
            )
            expect_same_state(state_of(quantizer), before, f"{name}: a frame of {bad}, in training")
            expect(quantizer.training, f"{name}: a frame of {bad} leaves the quantizer in eval mode")


TESTS = (
    gradient,
    gradient_at_edges,
    loss_names,
    losses_are_means,
    metrics_are_detached,
    non_finite_training,
)


def _upstream_gradient(latents: Tensor) -> Tensor:
    """A standard normal gradient, as from a decoder; the same for every call."""
    return torch.randn(latents.shape, generator=torch.Generator().manual_seed(7))


def _with_identity_choice(quantizer: Quantizer, vectors: Tensor, codes: Tensor) -> Tensor:
    """Vectors whose gradient treats every choice as the identity: `[M, D]`, `[M, N]` -> `[M, D]`."""
    if isinstance(quantizer, Grouped):
        members = [group for group in quantizer.groups if isinstance(group, Quantizer)]
        slices = vectors.split([group.dim for group in members], dim=1)
        chosen = codes.split([group.num_codebooks for group in members], dim=1)
        parts = zip(members, slices, chosen, strict=True)
        return torch.cat([_with_identity_choice(*part) for part in parts], dim=1)
    if not isinstance(quantizer, Residual) or not quantizer.stages_project:
        return quantizer.project_out(quantizer.to_code_space(vectors))
    rest = vectors  # each stage has a projection, so the gradient passes through all of them in a chain
    for n in range(quantizer.num_codebooks):
        stage = quantizer.stage(n)
        bounded = stage.to_code_space(rest)
        values = stage.dequantize(codes[:, n : n + 1])
        rest = rest - stage.project_out(bounded + (values - bounded).detach())
    return vectors - rest


def has_known_gain(quantizer: Quantizer) -> bool:
    """Whether `gradient_gain` can compute the expected gradient.

    It needs straight-through, independent frames, and residual or grouped stages that depend on nothing but
    their residual.
    """
    known = all(isinstance(each, (Grouped, Residual)) for each in _compositions(quantizer))
    return (
        quantizer.estimator == "ste"
        and known
        and has_independent_frames(quantizer)
        and not any(isinstance(each, ConditionalQuantizer) for each in quantizer.modules())
    )


def _compositions(quantizer: Quantizer) -> list[Quantizer]:
    """The quantizer and its members that contain other quantizers."""
    members = [each for each in quantizer.modules() if isinstance(each, Quantizer)]
    return [each for each in members if any(isinstance(m, Quantizer) for m in [*each.modules()][1:])]

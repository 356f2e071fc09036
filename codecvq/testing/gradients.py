"""Checks of gradients: what the task loss alone reaches, and who passes it on.

The first line of each says the promise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from codecvq.api.hookspecs import EstimatorSpec, hookimpl
from codecvq.plugins import registry
from codecvq.quantizer import Context, Quantizer
from codecvq.quantizer.build import quantizer_options
from codecvq.testing.case import QuantizerCase
from codecvq.testing.check import about, expect

PROBE = "conformance_kit_probe"  # an estimator that turns every gradient around and halves it


@about("quantize", "bound")
def task_gradient(case: QuantizerCase) -> str:
    """The task loss alone, without the quantizer's own losses, reaches in each form what it reaches plain."""
    case = case.without_dropout()
    quantizer = case.trained()
    reached = _tensors_with_gradient(quantizer, case)
    expect("latents" in reached, "the task loss alone reaches no latents: the encoder would not learn")
    if case.plain is not None:
        plain = case.plain.without_dropout().trained()
        needed = _tensors_with_gradient(plain, case.plain)
        lost = [name for name in _parameter_names_in_form(quantizer, plain, needed) if name not in reached]
        expect(
            not lost,
            f"the task loss alone reaches {', '.join(sorted(needed))} of {case.plain.name}, and in this "
            f"form not {', '.join(lost)}: the gradient of its values is dropped",
        )
    others = [name for name, _ in quantizer.named_parameters() if name not in reached]
    return f"reaches {', '.join(reached)}" + (f"; not {', '.join(others)}" if others else "")


@about("quantize")
def own_gradient(case: QuantizerCase) -> None:
    """Values that carry a gradient to the vectors say so by `own_gradient`, and no others do."""
    quantizer = case.without_dropout().trained()
    vectors = case.latents().transpose(1, 2).flatten(0, 1)
    entered = quantizer.to_code_space(vectors).detach().requires_grad_()
    values, _ = quantizer.quantize_with_context(entered, Context.of_one_item(len(entered), entered.device))
    has_gradient = False
    if values.requires_grad:
        (gradient,) = torch.autograd.grad(values.square().sum(), entered, allow_unused=True)
        has_gradient = gradient is not None and bool(gradient.any())
    if quantizer.own_gradient:
        expect(
            has_gradient,
            "own_gradient is True, but the values of quantize carry no gradient to the vectors: they are "
            "detached somewhere, and the encoder does not learn. Remove own_gradient to use an estimator.",
        )
    else:
        expect(
            not has_gradient,
            "the values of quantize carry a gradient to the vectors, which is dropped: the estimator "
            f"{quantizer.estimator!r} takes its place. Declare own_gradient = True to keep it, or detach the "
            "vectors.",
        )


@about("__init__")
def estimator_is_used(case: QuantizerCase) -> None:
    """The option `estimator` is used: the gradient of the latents is the one that the estimator gives."""
    with _registered_probe():
        gradients = []
        for estimator in ("ste", PROBE):
            quantizer = case.without_dropout().trained(estimator=estimator)
            latents = case.latents().requires_grad_()
            (quantizer(latents).latents * _upstream_gradient(latents)).sum().backward()
            assert latents.grad is not None, "backward gives the latents a gradient"
            gradients.append(latents.grad)
            expect(
                quantizer.estimator == estimator,
                f"with estimator={estimator!r} its attribute `estimator` is {quantizer.estimator!r}. Pass it "
                "on: super().__init__(…, estimator=estimator)",
            )
    expect(
        not torch.allclose(gradients[0], gradients[1], rtol=1e-3, atol=1e-6),
        "another estimator gives the same gradient of the latents: the option `estimator` has no effect",
    )


def has_estimator(name: str, quantizer: Quantizer) -> bool:
    """Whether there is an option `estimator` to be used."""
    return not quantizer.own_gradient and "estimator" in quantizer_options(name)


def _tensors_with_gradient(quantizer: Quantizer, case: QuantizerCase) -> list[str]:
    """Names of the parameters that a loss of the latents alone gives a gradient; "latents" where these have
    one.
    """
    latents = case.latents().requires_grad_()
    loss = quantizer(latents).latents.square().mean()
    if loss.requires_grad:
        loss.backward()
    named = {"latents": latents, **dict(quantizer.named_parameters())}
    return [name for name, tensor in named.items() if tensor.grad is not None and bool(tensor.grad.any())]


def _parameter_names_in_form(form: Quantizer, plain: Quantizer, needed: list[str]) -> Iterator[str]:
    """What these parameters of the plain quantizer are called in a form: one name for each stage or group."""
    names = dict(form.named_parameters())
    for prefix, member in form.named_modules():
        if type(member) is type(plain):
            yield from (full for name in needed if (full := f"{prefix}.{name}") in names)


def _reversed(x: Tensor, z: Tensor, q: Tensor) -> Tensor:
    return -0.5 * x


@contextmanager
def _registered_probe() -> Iterator[None]:
    """A block in which the estimator `PROBE` is registered."""

    class Plugin:
        @hookimpl
        def codecvq_estimators(self) -> Iterator[EstimatorSpec]:
            yield EstimatorSpec(name=PROBE, factory=_reversed, summary="of the conformance kit")

    origin = registry().register(Plugin(), PROBE)
    try:
        yield
    finally:
        registry().unregister(origin)


def _upstream_gradient(latents: Tensor) -> Tensor:
    """A gradient as it might come from a decoder: normal random, the same for every call."""
    return torch.randn(latents.shape, generator=torch.Generator().manual_seed(7))

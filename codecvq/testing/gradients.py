"""Checks of the gradient of the task loss: what it reaches, and through which mechanism.

The first line of each docstring states the guarantee.
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

PROBE = "conformance_kit_probe"  # an estimator that multiplies gradients by -1/2


@about("quantize", "bound")
def task_gradient(case: QuantizerCase) -> str:
    """The task loss (without quantizer losses) reaches the same tensors in each form as in the plain form."""
    case = case.without_dropout()
    quantizer = case.trained()
    reached = _tensors_with_gradient(quantizer, case)
    expect("latents" in reached, "the task loss alone does not reach the latents: the encoder cannot learn")
    if case.plain is not None:
        plain = case.plain.without_dropout().trained()
        needed = _tensors_with_gradient(plain, case.plain)
        lost = [name for name in _parameter_names_in_form(quantizer, plain, needed) if name not in reached]
        expect(
            not lost,
            f"the task loss alone reaches {', '.join(sorted(needed))} of {case.plain.name}, but in this "
            f"form it does not reach {', '.join(lost)}: the gradient of its values is dropped",
        )
    others = [name for name, _ in quantizer.named_parameters() if name not in reached]
    return f"reaches {', '.join(reached)}" + (f"; not {', '.join(others)}" if others else "")


@about("quantize")
def own_gradient(case: QuantizerCase) -> None:
    """Values of `quantize` carry a gradient to the vectors if and only if `own_gradient` is True."""
    quantizer = case.without_dropout().trained()
    vectors = case.latents().transpose(1, 2).flatten(0, 1)
    bounded = quantizer.to_code_space(vectors).detach().requires_grad_()
    values, _ = quantizer.quantize_with_context(bounded, Context.of_one_item(len(bounded), bounded.device))
    has_gradient = False
    if values.requires_grad:
        (gradient,) = torch.autograd.grad(values.square().sum(), bounded, allow_unused=True)
        has_gradient = gradient is not None and bool(gradient.any())
    if quantizer.own_gradient:
        expect(
            has_gradient,
            "own_gradient is True, but the values of quantize carry no gradient to the vectors: they are "
            "detached, so the encoder does not learn. Remove own_gradient to use an estimator.",
        )
    else:
        expect(
            not has_gradient,
            "the values of quantize carry a gradient to the vectors, but the estimator "
            f"{quantizer.estimator!r} replaces it. Declare own_gradient = True to use this gradient, or "
            "detach the vectors.",
        )


@about("__init__")
def estimator_is_used(case: QuantizerCase) -> None:
    """The option `estimator` takes effect: it determines the gradient of the latents."""
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
                f"with estimator={estimator!r} the attribute `estimator` is {quantizer.estimator!r}. Pass it "
                "to the base class: super().__init__(…, estimator=estimator)",
            )
    expect(
        not torch.allclose(gradients[0], gradients[1], rtol=1e-3, atol=1e-6),
        "a different estimator gives the same gradient of the latents: the option `estimator` has no effect",
    )


def has_estimator(name: str, quantizer: Quantizer) -> bool:
    """Whether the quantizer has an option `estimator` that must take effect."""
    return not quantizer.own_gradient and "estimator" in quantizer_options(name)


def _tensors_with_gradient(quantizer: Quantizer, case: QuantizerCase) -> list[str]:
    """Names of the parameters that a loss of the latents reaches, and "latents" if it reaches them."""
    latents = case.latents().requires_grad_()
    loss = quantizer(latents).latents.square().mean()
    if loss.requires_grad:
        loss.backward()
    named = {"latents": latents, **dict(quantizer.named_parameters())}
    return [name for name, tensor in named.items() if tensor.grad is not None and bool(tensor.grad.any())]


def _parameter_names_in_form(form: Quantizer, plain: Quantizer, needed: list[str]) -> Iterator[str]:
    """The names of the plain quantizer's parameters in a derived form: one per stage or group."""
    names = dict(form.named_parameters())
    for prefix, member in form.named_modules():
        if type(member) is type(plain):
            yield from (full for name in needed if (full := f"{prefix}.{name}") in names)


def _minus_half(x: Tensor, z: Tensor, q: Tensor) -> Tensor:
    return -0.5 * x


@contextmanager
def _registered_probe() -> Iterator[None]:
    """Context manager that registers the estimator `PROBE`."""

    class Plugin:
        @hookimpl
        def codecvq_estimators(self) -> Iterator[EstimatorSpec]:
            yield EstimatorSpec(name=PROBE, factory=_minus_half, summary="of the conformance kit")

    origin = registry().register(Plugin(), PROBE)
    try:
        yield
    finally:
        registry().unregister(origin)


def _upstream_gradient(latents: Tensor) -> Tensor:
    """A standard normal gradient, as from a decoder; the same for every call."""
    return torch.randn(latents.shape, generator=torch.Generator().manual_seed(7))

"""Conformance checks of `ternary` and its forms, and tests of its documented properties."""

import numpy as np
import pytest
import torch
from codecvq_ternary.estimator import clipped_straight_through
from codecvq_ternary.metric import make_level_difference

import codecvq
from codecvq import MetricUndefined
from codecvq.plugins import registry
from codecvq.testing import Check, parametrize_quantizer


@parametrize_quantizer("ternary", dim=8, trits=8)
def test_conformance(check: Check) -> None:
    check.run()


@parametrize_quantizer("ternary", dim=8, trits=5, sparsity_weight=0.1, estimator="clipped_ste")
def test_conformance_with_projection_and_loss(check: Check) -> None:
    check.run()


@pytest.mark.parametrize("stages", [1, 2, 3, 8])
def test_stages_are_a_balanced_ternary_expansion(stages: int) -> None:
    quantizer = codecvq.build_quantizer("residual_ternary", dim=4, trits=4, num_codebooks=stages).eval()
    latents = torch.randn(2, 4, 100, generator=torch.Generator().manual_seed(0))
    bounded = 1.5 * torch.tanh(latents / 1.5)
    error = (quantizer(latents).latents - bounded).abs().max()
    assert error <= 0.5 * 3.0 ** -(stages - 1) + 1e-6


def test_decode_and_encode_return_the_same_codes() -> None:
    quantizer = codecvq.build_quantizer("ternary", dim=5, trits=5).eval()
    codes = torch.arange(3**5)[None, None]
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


def test_sparsity_loss_gradient_points_to_zero() -> None:
    quantizer = codecvq.build_quantizer("ternary", dim=4, trits=4, sparsity_weight=1.0)
    latents = torch.randn(1, 4, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()
    quantizer(latents).losses["sparsity"].backward()
    assert latents.grad is not None
    assert torch.equal(latents.grad.sign(), latents.detach().sign())


def test_clipped_ste_is_zero_outside() -> None:
    z = torch.tensor([[-2.0, -1.0, 0.3, 1.5]])
    assert torch.equal(
        clipped_straight_through(torch.ones(1, 4), z, z.sign()), torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    )


def test_level_difference_of_half_the_amplitude() -> None:
    metric = make_level_difference()
    tone = np.sin(np.arange(16_000) * 0.1).astype(np.float32)
    assert metric(tone, tone / 2, 16_000)["level_difference"] == pytest.approx(6.0206, abs=1e-3)
    with pytest.raises(MetricUndefined, match="silent"):
        metric(tone, 0 * tone, 16_000)


def test_every_part_is_registered() -> None:
    for kind, name in {
        "quantizers": "ternary",
        "estimators": "clipped_ste",
        "metrics": "level_difference",
        "recipes": "ternary-smoke",
    }.items():
        registration = registry().find(kind, name)
        assert registration.origin.distribution == "codecvq-ternary"
    assert registry().find("recipes", "ternary-smoke").path().is_file()

"""The refiner of spectra: identity at the start, receptive field, mask and training."""

from __future__ import annotations

import pytest
import torch

import codecvq
from codecvq.codec import Codec
from codecvq.networks.fourier import local_mean
from codecvq.networks.voice.refiner import NEAR, Refiner
from codecvq.training.initial_weights import load_initial_weights
from codecvq.training.recipe import load_recipe

BINS, CONTEXT = 65, 8


def make_refiner(blocks: int = 2) -> Refiner:
    torch.manual_seed(0)
    return Refiner(BINS, CONTEXT, 16, blocks)


def inputs(frames: int = 30) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    spectra, one, other = (
        torch.complex(*(torch.randn(2, frames, BINS, generator=generator) for _ in "ri")) for _ in range(3)
    )
    return spectra, [one, other[:1]], torch.randn(2, frames, CONTEXT, generator=generator)


def test_a_new_refiner_is_identity() -> None:
    spectra, sources, context = inputs()
    assert torch.equal(make_refiner()(spectra, sources, context, None), spectra)


def test_spread_scales_the_distance_of_levels_to_their_local_mean() -> None:
    refiner, (spectra, sources, context) = make_refiner(), inputs()
    refiner.spread.data.fill_(0.1)
    levels, output = spectra.abs().log(), refiner(spectra, sources, context, None)
    mean = torch.stack(
        [levels[..., max(0, f - NEAR // 2) : f + NEAR // 2 + 1].mean(dim=2) for f in range(BINS)], 2
    )
    torch.testing.assert_close(local_mean(levels, NEAR), mean)
    torch.testing.assert_close(output.abs().log(), mean + 1.1 * (levels - mean), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(output.angle(), spectra.angle(), atol=1e-4, rtol=1e-4)


def test_receptive_field_equals_reach_and_padding_has_no_effect() -> None:
    refiner, (spectra, sources, context) = make_refiner(), inputs()
    torch.nn.init.normal_(refiner.head.weight, std=0.1)
    changed = context.clone()
    changed[:, 15 + refiner.reach + 1 :] += 1
    before, after = (refiner(spectra, sources, each, None) for each in (context, changed))
    assert torch.equal(before[:, :16], after[:, :16])
    assert not torch.equal(before[:, 16], after[:, 16])
    mask = torch.arange(30)[None] < torch.tensor([[30], [20]])
    masked = refiner(spectra, sources, context, mask)
    alone = refiner(spectra[1:, :20], [s[-1:, :20] for s in sources], context[1:, :20], None)
    torch.testing.assert_close(masked[1, :20], alone[0])


@pytest.mark.parametrize("num_codebooks", [3, 6])
def test_training_starts_with_the_codes_of_speech_16k(num_codebooks: int) -> None:
    recipe = load_recipe("speech-16k-natural")
    bundled = codecvq.load("speech-16k")
    codec = Codec(sample_rate=16000, network=recipe.network, quantizer=recipe.quantizer)
    load_initial_weights(recipe, codec, None)
    codec.eval()
    assert codec.codebooks_sha256 == bundled.codebooks_sha256
    wav = 0.1 * torch.randn(1, 1, 8000, generator=torch.Generator().manual_seed(0))
    codes = bundled.encode(wav, num_codebooks=num_codebooks)
    assert torch.equal(codec.encode(wav, num_codebooks=num_codebooks), codes)
    assert torch.equal(codec.decode(codes), bundled.decode(codes))
    assert sum(each.numel() for each in codec.parameters()) < 10e6

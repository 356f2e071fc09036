"""Discriminators: scores, gradients, shortest inputs, weights and options."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from codecvq.api.hookspecs import DiscriminatorSpec
from codecvq.codec import Codec
from codecvq.errors import OptionError, ShapeError, UnknownName
from codecvq.networks.build import build_discriminator, build_network
from codecvq.networks.interface import Discriminator, DiscriminatorOutput
from codecvq.plugins import registry

SMALL: dict[str, dict[str, Any]] = {
    "ms_stft": {"filters": 2, "windows": [512, 256]},
    "multi_period": {"filters": 2, "max_filters": 8, "periods": [2, 3, 5]},
    "multi_band": {"filters": 2, "windows": [512, 256, 128]},
    "multi_band/for processors": {
        "filters": 4,
        "windows": [512],
        "bands": [0.0, 0.25, 1.0],
        "stride": 4,
        "power": 0.5,
    },
}


def make(name: str, channels: int = 1) -> Discriminator:
    torch.manual_seed(0)
    return build_discriminator(
        name.partition("/")[0], sample_rate=16000, channels=channels, **copy.deepcopy(SMALL[name])
    )


def audio(items: int = 2, channels: int = 1, samples: int = 2000) -> torch.Tensor:
    return 0.1 * torch.randn(items, channels, samples, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=SMALL)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def parts(name: str) -> int:
    options = SMALL[name]
    return len(options.get("windows", options.get("periods")))


@pytest.mark.parametrize("channels", [1, 2])
def test_each_window_or_period_gives_scores(name: str, channels: int) -> None:
    judgements = make(name, channels)(audio(3, channels))
    assert len(judgements) == parts(name)
    for judgement in judgements:
        assert isinstance(judgement, DiscriminatorOutput)
        assert judgement.scores.shape[0] == 3
        assert judgement.scores.numel() > 3, "scores are per position"
        assert len(judgement.features) >= 4
        assert all(feature.shape[0] == 3 for feature in judgement.features)
        assert bool(judgement.scores.isfinite().all())


def test_scores_of_an_item_do_not_depend_on_the_batch(name: str) -> None:
    discriminator, wav = make(name).eval(), audio(3)
    together, alone = discriminator(wav), discriminator(wav[1:2])
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours.scores[1:2], theirs.scores, atol=1e-5, rtol=1e-4)


def test_gradients_reach_the_audio_and_every_weight(name: str) -> None:
    discriminator, wav = make(name), audio().requires_grad_()
    sum(judgement.scores.square().mean() for judgement in discriminator(wav)).backward()
    assert wav.grad is not None
    assert bool(wav.grad.isfinite().all())
    reached = (wav.grad.abs() > 0).float().mean()
    assert reached > 0.95, f"{reached:.0%} of the samples have a gradient"
    silent = [name for name, weight in discriminator.named_parameters() if weight.grad is None]
    assert not silent


@pytest.mark.parametrize("part", ["features", "scores"])
def test_silence_has_finite_gradients(name: str, part: str) -> None:
    wav = torch.zeros(1, 1, 2000, requires_grad=True)
    for judgement in make(name)(wav):
        given = judgement.scores if part == "scores" else torch.cat([f.flatten() for f in judgement.features])
        given.sum().backward(retain_graph=True)
    assert wav.grad is not None
    assert bool(wav.grad.isfinite().all())


def test_the_shortest_audio_has_scores_and_shorter_audio_is_an_error(name: str) -> None:
    discriminator = make(name)
    shortest = discriminator.min_samples
    assert len(discriminator(audio(samples=shortest))) == parts(name)
    if shortest > 1:
        with pytest.raises(ShapeError, match=rf"at least {shortest} samples, given are {shortest - 1}\."):
            discriminator(audio(samples=shortest - 1))


def test_a_copy_gives_the_same_scores_and_learns_separately(name: str) -> None:
    discriminator, wav = make(name), audio()
    copied = copy.deepcopy(discriminator)
    before = discriminator(wav)[0].scores
    assert torch.equal(copied(wav)[0].scores, before)
    with torch.no_grad():
        for weight in copied.parameters():
            weight.mul_(1.5)
    assert torch.equal(discriminator(wav)[0].scores, before)
    assert not torch.equal(copied(wav)[0].scores, before)


def test_weights_are_saved_and_loaded(name: str) -> None:
    discriminator, wav = make(name), audio()
    torch.manual_seed(5)
    options = copy.deepcopy(SMALL[name])
    other = build_discriminator(name.partition("/")[0], sample_rate=16000, **options)
    assert not torch.equal(other(wav)[0].scores, discriminator(wav)[0].scores)
    other.load_state_dict(discriminator.state_dict())
    assert torch.equal(other(wav)[0].scores, discriminator(wav)[0].scores)


def test_optimizer_steps_improve_the_separation_of_noise_and_tone(name: str) -> None:
    discriminator = make(name)
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=5e-3, betas=(0.5, 0.9))
    tone = 0.2 * torch.sin(torch.arange(2000) * 0.3).expand(4, 1, -1)
    noise = audio(4)

    def gap() -> torch.Tensor:
        pairs = zip(discriminator(tone), discriminator(noise), strict=True)
        return torch.stack([real.scores.mean() - fake.scores.mean() for real, fake in pairs]).mean()

    before = float(gap().detach())
    for _ in range(10):
        optimizer.zero_grad()
        (-gap()).backward()
        optimizer.step()
    assert float(gap().detach()) > before + 0.01


@pytest.mark.parametrize("window", [1024, 512, 256, 128])
@pytest.mark.parametrize("items", [1, 3, 8])
def test_bfloat16_scores_are_close_to_float32_also_for_bands_of_one_column(window: int, items: int) -> None:
    torch.manual_seed(0)
    options = {"windows": [window], "bands": [0.0, 0.25, 1.0], "filters": 16, "stride": 4, "power": 0.5}
    judge = build_discriminator("multi_band", sample_rate=16000, channels=1, **options)
    wav = audio(items, samples=16000)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        (rounded,) = judge(wav)
    with torch.no_grad():
        (exact,) = judge(wav)
    for ours, theirs in zip(
        (rounded.scores, *rounded.features), (exact.scores, *exact.features), strict=True
    ):
        torch.testing.assert_close(ours.float(), theirs, rtol=0.1, atol=0.05)


def test_default_sizes_match_the_papers() -> None:
    weights = {
        name: sum(p.numel() for p in build_discriminator(name, sample_rate=24000).parameters())
        for name in ("ms_stft", "multi_period", "multi_band")
    }
    assert weights["multi_period"] == pytest.approx(41.1e6, rel=0.01), "size of HiFi-GAN's"
    assert weights["ms_stft"] == pytest.approx(0.472e6, rel=0.01), "size of EnCodec's with five windows"
    assert weights["multi_band"] == pytest.approx(1.41e6, rel=0.01), "size of the spectral part of DAC's"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "multi_band", "window": [512]}, "Did you mean 'windows'"),
        ({"name": "multi_band", "bands": [0.5, 0.1]}, "rising edges"),
        ({"name": "multi_band", "bands": [0.0, 1.5]}, "rising edges"),
        ({"name": "multi_band", "power": 0.0}, "power 0"),
        ({"name": "multi_band", "stride": 0}, "stride 0"),
        ({"name": "multi_band", "windows": [8]}, "at least 64 samples"),
        ({"name": "multi_period", "periods": []}, r"periods \[\]"),
        ({"name": "multi_period", "filters": 64, "max_filters": 32}, "filters 64"),
        ({"name": "ms_stft", "windows": [4]}, "at least 16 samples"),
        ({"name": "ms_stft", "hop_ratio": 0}, "hop_ratio 0"),
        ({"name": "ms_stft", "filters": "many"}, "filters is 'many'; needed is a valid integer"),
    ],
)
def test_a_wrong_option_is_an_error(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        build_discriminator(sample_rate=16000, **options)


def test_discriminators_are_registered_with_their_kind() -> None:
    kinds = {name: type(registration.spec) for name, registration in registry().all("networks").items()}
    assert {name for name, kind in kinds.items() if kind is DiscriminatorSpec} >= {
        "ms_stft",
        "multi_period",
        "multi_band",
    }


def test_discriminators_and_codec_networks_cannot_be_exchanged() -> None:
    with pytest.raises(
        OptionError, match=r"'multi_band' is not an encoder and decoder\. Use one of: .*spectral"
    ):
        Codec(sample_rate=16000, network={"name": "multi_band"}, quantizer={"name": "fsq", "levels": [5]})
    with pytest.raises(OptionError, match=r"'spectral' is not a discriminator\. Use one of: .*multi_period"):
        build_discriminator("spectral", sample_rate=16000)
    with pytest.raises(UnknownName, match="Did you mean 'multi_period'"):
        build_network("multi_periods", sample_rate=16000)

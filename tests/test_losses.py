"""Losses of decoded audio and the balancer, compared with their definitions in float64."""

from __future__ import annotations

import pytest
import torch

from codecvq.errors import OptionError
from codecvq.losses import AudioLoss, LossInputs, build_loss
from codecvq.losses.complex_stft import ComplexStftLoss
from codecvq.losses.loudness import LoudnessLoss
from codecvq.losses.similarity import SimilarityLoss
from codecvq.losses.stft import StftLoss
from codecvq.losses.waveform import WaveformLoss
from codecvq.networks.interface import DiscriminatorOutput
from codecvq.training.adversary import codec_loss, discriminator_loss, feature_distance, win_rate
from codecvq.training.balancer import Balancer


def audio(seed: int) -> torch.Tensor:
    return 0.1 * torch.randn(3, 1, 3000, generator=torch.Generator().manual_seed(seed))


def spectra(wav: torch.Tensor, size: int) -> torch.Tensor:
    """Spectra `[B, frames, bins]`, complex, as sums over samples without an FFT."""
    n = torch.arange(size, dtype=torch.float64)
    hann = 0.5 - 0.5 * torch.cos(2 * torch.pi * n / size)
    waves = torch.exp(-2j * torch.pi * torch.outer(torch.arange(size // 2 + 1), n) / size)
    padded = torch.nn.functional.pad(wav[:, 0].double(), (size // 2, size // 2))
    return (padded.unfold(1, size, size // 4) * hann).to(waves.dtype) @ waves.T


def test_the_stft_loss_matches_its_definition() -> None:
    decoded, reference = audio(0), audio(1)
    parts = []
    for size in (64, 256):
        ours, theirs = (spectra(wav, size).abs() / (size / 2) for wav in (decoded, reference))
        ours, theirs = ((m.square() + 1e-10).sqrt() for m in (ours, theirs))
        apart = (theirs - ours).square().sum(dim=(1, 2)).sqrt() / theirs.square().sum(dim=(1, 2)).sqrt()
        parts.append(apart.mean() + (ours.log() - theirs.log()).abs().mean())
    found = StftLoss(16000, [64, 256]).distance(decoded, reference)
    torch.testing.assert_close(found.double(), torch.stack(parts).mean(), rtol=1e-4, atol=1e-5)


def test_the_complex_stft_loss_matches_its_definition_and_depends_on_phase() -> None:
    decoded, reference = audio(0), audio(1)
    parts = []
    for size in (64, 256):
        ours, theirs = spectra(decoded, size), spectra(reference, size)
        squares = [x.abs().square().sum(dim=(1, 2)) for x in (ours - theirs, theirs)]
        parts.append((squares[0] / squares[1]).sqrt().mean())
    loss = ComplexStftLoss(16000, [64, 256])
    torch.testing.assert_close(
        loss.distance(decoded, reference).double(), torch.stack(parts).mean(), rtol=1e-4, atol=1e-5
    )
    assert float(loss.distance(-reference, reference)) == pytest.approx(2, rel=1e-4), (
        "the opposite sign doubles the distance"
    )
    assert float(StftLoss(16000, [64]).distance(-reference, reference)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        StftLoss(16000, [64, 128]),
        ComplexStftLoss(16000, [64]),
        WaveformLoss(16000),
        LoudnessLoss(8000).double(),
        SimilarityLoss(8000).double(),
    ],
)
def test_gradients_of_losses_match_finite_differences(loss: AudioLoss) -> None:
    decoded, reference = (audio(seed)[:1, :, :200].double() for seed in (0, 1))
    assert torch.autograd.gradcheck(lambda wav: loss.distance(wav, reference), (decoded.requires_grad_(),))


TERMS = ["mel", "stft", "complex_stft", "waveform", "loudness", "similarity"]
SMALL = {"mel": {"windows": [256], "bands": [20]}}


@pytest.mark.parametrize("term", TERMS)
def test_losses_are_zero_for_equal_signals_and_positive_for_others(term: str) -> None:
    loss = build_loss(term, sample_rate=16000, **SMALL.get(term, {}))
    same, other = (LossInputs(decoded=audio(0), reference=audio(seed)) for seed in (0, 1))
    assert float(loss(same)) == pytest.approx(0, abs=3e-5)
    assert float(loss(other)) > 0.1


SCORES = {
    "recorded": torch.tensor([[1.5, 0.5], [-0.5, 2.0]]),
    "decoded": torch.tensor([[-2.0, 0.25], [0.75, -0.5]]),
}


def test_adversarial_losses_match_their_definitions() -> None:
    recorded, decoded = SCORES["recorded"], SCORES["decoded"]
    assert float(discriminator_loss("hinge", recorded, decoded)) == pytest.approx(
        (0 + 0.5 + 1.5 + 0) / 4 + (0 + 1.25 + 1.75 + 0.5) / 4
    )
    assert float(codec_loss("hinge", decoded)) == pytest.approx(-(-2.0 + 0.25 + 0.75 - 0.5) / 4)
    assert float(discriminator_loss("least_squares", recorded, decoded)) == pytest.approx(
        (0.25 + 0.25 + 2.25 + 1) / 4 + (4 + 0.0625 + 0.5625 + 0.25) / 4
    )
    assert float(codec_loss("least_squares", decoded)) == pytest.approx((9 + 0.5625 + 0.0625 + 2.25) / 4)
    assert float(win_rate("hinge", recorded, decoded)) == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert float(win_rate("least_squares", recorded, decoded)) == pytest.approx((2 / 4 + 3 / 4) / 2)


def test_the_feature_distance_matches_its_definition_and_ignores_scale() -> None:
    layers = [torch.randn(2, 3, 4), torch.randn(2, 5)]
    others = [layer + 0.1 * torch.randn_like(layer) for layer in layers]

    def judged(features: list[torch.Tensor]) -> DiscriminatorOutput:
        return DiscriminatorOutput(torch.zeros(2, 1), tuple(features))

    ratios = [
        (a - b).abs().double().flatten(1).mean(dim=1) / a.abs().double().flatten(1).mean(dim=1)
        for a, b in zip(layers, others, strict=True)
    ]
    wanted = torch.stack(ratios).mean()
    found = feature_distance(judged(layers), judged(others))
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)
    louder = feature_distance(
        judged([7 * layer for layer in layers]), judged([7 * other for other in others])
    )
    assert float(louder) == pytest.approx(float(found), rel=1e-5)


def test_balanced_weights_are_shares_of_the_gradient() -> None:
    torch.manual_seed(0)
    output = torch.randn(4, 1, 50, dtype=torch.float64, requires_grad=True)
    target = torch.randn_like(output)
    losses = {"a": 1000 * (output - target).square().mean(), "b": 1e-3 * output.abs().mean()}
    balancer = Balancer({"a": 1.0, "b": 3.0}, total_norm=2.0)
    gradient = balancer.gradient(losses, output)
    parts = {}
    for name, loss in losses.items():
        (g,) = torch.autograd.grad(loss, output, retain_graph=True)
        parts[name] = g / (g.flatten(1).norm(dim=1).mean() * 4)
    torch.testing.assert_close(gradient, 2.0 * (0.25 * parts["a"] + 0.75 * parts["b"]))


def test_a_loss_scale_prevents_underflow_of_balanced_gradients() -> None:
    output = torch.randn(2, 1, 500, requires_grad=True)
    losses = {"a": (1e-5 * output.half()).float().mean()}  # a gradient of 1e-8 is 0 in half precision
    assert not bool(Balancer({"a": 1.0}).gradient(losses, output).any())
    scaled = Balancer({"a": 1.0}).gradient(losses, output, scale=2.0**14)
    torch.testing.assert_close(scaled.flatten(1).norm(dim=1) * 2, torch.ones(2))


def test_the_balancer_averages_norms_and_skips_non_finite_gradients() -> None:
    balancer = Balancer({"a": 1.0}, decay=0.5)
    output = torch.ones(1, 4, requires_grad=True)
    for scale in (1.0, 3.0):
        gradient = balancer.gradient({"a": (scale * output).sum()}, output)
    norms = (0.5 * 2.0 + 6.0) / (0.5 + 1)  # of gradients [1, 1, 1, 1] and [3, 3, 3, 3]
    torch.testing.assert_close(gradient, torch.full((1, 4), 3.0 / norms))
    before = balancer.averages["a"].clone()
    balancer.gradient({"a": (torch.nan * output).sum()}, output)
    assert torch.equal(balancer.averages["a"], before)


def test_the_share_of_an_item_does_not_depend_on_the_batch_size() -> None:
    def shares(items: int) -> torch.Tensor:
        output = torch.ones(items, 1, 8, requires_grad=True)
        return Balancer({"a": 1.0}).gradient({"a": output.square().mean()}, output) * items

    torch.testing.assert_close(shares(1)[0], shares(6)[0])


def test_the_loss_of_a_batch_is_the_mean_of_its_items() -> None:
    decoded, reference = audio(0), audio(1) * torch.tensor([1.0, 0.1, 3.0])[:, None, None]
    for name in TERMS:
        loss = build_loss(name, sample_rate=16000, **SMALL.get(name, {})).distance
        whole = float(loss(decoded, reference))
        items = [float(loss(decoded[b : b + 1], reference[b : b + 1])) for b in range(3)]
        assert whole == pytest.approx(sum(items) / 3, rel=1e-4), name


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("mel", {"windows": [64, 256, 1024], "bands": [1, 2]}, "windows has 3 entries and bands 2"),
        (
            "mel",
            {"windows": [255], "bands": [20]},
            r"losses\.mel\.windows is \[255\]; at least one window is needed, and all must be even",
        ),
        ("stft", {"windows": []}, r"losses\.stft\.windows is \[\]"),
        ("mel", {"windows": [256, 512], "bands": [20, 0]}, r"losses\.mel\.bands is \[20, 0\]; each"),
        ("mel", {"floor": 0.0}, r"losses\.mel\.floor is 0\.0; it must be above 0"),
    ],
)
def test_invalid_options_are_an_error_when_a_loss_is_built(
    name: str, options: dict[str, object], says: str
) -> None:
    with pytest.raises(OptionError, match=says):
        build_loss(name, sample_rate=16000, **options)

"""Parts of the spectral network: flat options equal nested parts, and plugins can replace each part."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from codecvq import Codec, NetworkPartSpec, hookimpl
from codecvq.api.reach import Reach
from codecvq.errors import OptionError, UnknownName
from codecvq.networks import (
    Decoder,
    FrameNetwork,
    FrontEnd,
    Head,
    Network,
    build_network,
    spectral_network,
)
from codecvq.plugins import registry

HOP = 64
SMALL = {"encoder_width": 12, "encoder_blocks": 1, "decoder_width": 16, "decoder_blocks": 2}
BASE = {"hop_length": HOP, "dim": 8}
ENCODER = {"name": "convnext", "width": 12, "blocks": 1}
DECODER = {"name": "convnext", "width": 16, "blocks": 2}
MELS = {"name": "log_mel", "window_length": 256, "num_mels": 20}


def build(**options: Any) -> Network:
    torch.manual_seed(0)
    return build_network("spectral", sample_rate=8000, **BASE, **options)


@pytest.mark.parametrize(
    ("flat", "nested"),
    [
        (
            {"window_length": 256, "num_mels": 20},
            {"features": MELS, "head": {"name": "predicted", "window_length": 256}},
        ),
        (
            {"features": "stft", "window_length": 128, "phase": "retrieved", "phase_iterations": 2},
            {
                "features": {"name": "stft", "window_length": 128},
                "head": {"name": "retrieved", "iterations": 2},
            },
        ),
        (
            {
                "window_length": 256, "num_mels": 20, "phase": "source", "pitch_channels": [0, 1, 2],
                "synthesis_hop_length": 32, "refiner_blocks": 1, "refiner_width": 8,
            },
            {
                "features": MELS,
                "head": {
                    "name": "source", "pitch_channels": [0, 1, 2], "synthesis_hop_length": 32,
                    "refiner_blocks": 1, "refiner_width": 8,
                },
            },
        ),
    ],
    ids=["predicted", "retrieved", "source"],
)  # fmt: skip
def test_flat_options_and_nested_parts_build_the_same_network(
    flat: dict[str, Any], nested: dict[str, Any]
) -> None:
    one = build(**flat, **SMALL)
    other = build(**nested, encoder_backbone=ENCODER, decoder_backbone=DECODER)
    wav = 0.1 * torch.randn(2, 1, HOP * 9)
    for part in ("encoder", "decoder"):
        first, second = getattr(one, part).state_dict(), getattr(other, part).state_dict()
        assert list(first) == list(second)
        assert all(torch.equal(first[name], second[name]) for name in first)
    latents = one.encoder.eval()(wav)
    assert torch.equal(latents, other.encoder.eval()(wav))
    assert torch.equal(one.decoder.eval()(latents), other.decoder.eval()(latents))
    assert (one.encoder_reach, one.decoder_reach) == (other.encoder_reach, other.decoder_reach)


# Third-party parts


class Levels(FrontEnd):
    """Front end: the log level of each quarter of a hop."""

    num_features, before, after = 4, 0, 0

    def __init__(self, hop_length: int) -> None:
        super().__init__()
        self.hop_length = hop_length

    def forward(self, wav: Tensor) -> Tensor:
        quarters = wav.unflatten(2, (-1, 4, self.hop_length // 4))
        return quarters.square().mean(dim=4)[:, 0].clamp(min=1e-8).log()


class PerFrame(FrameNetwork):
    """Backbone: a linear layer that is applied to each frame."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.width, self.reach = width, Reach(0, 0)
        self.layer = nn.Linear(features, width)

    def forward(self, features: Tensor, mask: Tensor | None) -> Tensor:
        return self.layer(features).tanh()


class Samples(nn.Linear):
    """Head: the samples of each frame."""

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(hidden).flatten(1)[:, None]


def make_levels(*, sample_rate: int, hop_length: int, causal: bool, lookahead_frames: int) -> FrontEnd:
    return Levels(hop_length)


def make_per_frame(*, features: int, causal: bool, width: int = 6) -> FrameNetwork:
    return PerFrame(features, width)


def make_samples(
    *, sample_rate: int, hop_length: int, causal: bool, dim: int, backbone: Any, bias: bool = True
) -> Head:
    def decoder() -> nn.Module:
        made = backbone(dim)
        return Decoder(made, Samples(made.width, hop_length, bias=bias), Reach(0, 0))

    return Head(decoder)


class Plugin:
    @hookimpl
    def codecvq_network_parts(self) -> Iterator[NetworkPartSpec]:
        yield NetworkPartSpec(name="levels", kind="features", factory=make_levels)
        yield NetworkPartSpec(name="per_frame", kind="backbone", factory=make_per_frame)
        yield NetworkPartSpec(name="samples", kind="head", factory=make_samples)
        yield NetworkPartSpec(name="nothing", kind="features", factory=lambda **given: nn.Identity())


@pytest.fixture(autouse=True)
def plugin() -> Iterator[None]:
    origin = registry().register(Plugin(), "parts_test")
    yield
    registry().unregister(origin)


THIRD_PARTY = {
    "features": {"name": "levels"},
    "encoder_backbone": {"name": "per_frame", "width": 5},
    "decoder_backbone": {"name": "per_frame"},
    "head": {"name": "samples", "bias": False},
}


@pytest.mark.parametrize("part", [*THIRD_PARTY, "all"])
def test_plugins_replace_each_part_and_all_parts(part: str) -> None:
    replaced = THIRD_PARTY if part == "all" else {part: THIRD_PARTY[part]}
    flat = {"preset": "tiny"} if part == "head" else {}
    codec = Codec(
        sample_rate=8000,
        network={"name": "spectral", **BASE, **flat, **replaced},
        quantizer={"name": "vq", "codebook_size": 16},
    )
    wav, mask = 0.1 * torch.randn(2, 1, HOP * 6), torch.ones(2, 6, dtype=torch.bool)
    loss = codec.network.decoder(codec.network.encoder(wav, mask), mask).square().mean()
    loss.backward()
    assert all(
        weight.grad is not None for part in (codec.encoder, codec.decoder) for weight in part.parameters()
    )
    assert codec.eval().decode(codec.encode(wav)).shape == wav.shape
    if part == "all":
        assert codec.network.receptive_field == HOP
        assert codec.decoder.head.bias is None
        assert codec.encoder.backbone.width == 5


def test_networks_can_be_composed_in_python() -> None:
    front, encoder = Levels(HOP), PerFrame(4, 5)
    head = make_samples(
        sample_rate=8000, hop_length=HOP, causal=False, dim=3, backbone=lambda features: PerFrame(features, 6)
    )
    network = spectral_network(front, encoder, head, hop_length=HOP, dim=3)
    latents = network.encoder(torch.randn(1, 1, HOP * 4))
    assert (latents.shape, network.decoder(latents).shape) == ((1, 3, 4), (1, 1, HOP * 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"features": {"name": "samples"}},
            "a part of kind head. Use one of: levels, log_mel, nothing, stft",
        ),
        ({"features": {"window_length": 256}}, "needed is a mapping with the name"),
        (
            {"features": {"name": "log_mel", "num_mel": 8}},
            "features 'log_mel' has no option 'num_mel'.*num_mels",
        ),
        ({"features": {"name": "log_mel", "hop_length": 8}}, "features 'log_mel' has no option 'hop_length'"),
        ({"features": {"name": "nothing"}}, "Identity without num_features and before and after"),
        ({"features": {"name": "stft"}, "num_mels": 20}, "features is a part .* num_mels is given, too"),
        ({"head": {"name": "predicted"}, "phase": "source"}, "head is a part .* phase is given, too"),
        ({"decoder_backbone": DECODER, "decoder_width": 8}, "decoder_width is given, too"),
        ({"encoder_backbone": {"name": "convnext", "blocks": 0}}, "blocks is 0; needed is a whole number"),
        ({"head": {"name": "retrieved"}, "causal": True}, "needs future frames"),
    ],
)
def test_invalid_parts_raise_option_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        build(**options)


def test_an_unknown_part_name_raises_with_a_suggestion() -> None:
    with pytest.raises(UnknownName, match=r"no network part named 'log_mels'.*Did you mean 'log_mel'"):
        build(features={"name": "log_mels"})


def test_an_unknown_part_kind_raises() -> None:
    with pytest.raises(ValueError, match=r"is of kind 'tail'; known kinds are features, backbone, head"):
        NetworkPartSpec(name="x", kind="tail", factory="x:y")


def test_codebooks_sha256_depends_on_the_head_only_if_the_encoder_does() -> None:
    def digest(**options: Any) -> str:
        torch.manual_seed(0)
        network = {"name": "spectral", **BASE, "features": MELS, "encoder_backbone": ENCODER, **options}
        quantizer = {"name": "fsq", "levels": [5] * 8}
        codec = Codec(sample_rate=8000, network=network, quantizer=quantizer)
        for name, parameter in codec.named_parameters():
            if not name.startswith("decoder."):
                parameter.data = torch.ones_like(parameter)
        return codec.codebooks_sha256

    assert digest(head={"name": "samples"}) == digest(head={"name": "predicted"})
    assert digest(decoder_backbone=DECODER) == digest(decoder_backbone=THIRD_PARTY["decoder_backbone"])
    with_pitch = {"name": "source", "pitch_channels": [0, 1, 2]}
    assert digest(head=with_pitch) != digest(head={**with_pitch, "synthesis_hop_length": 32})
    assert digest(encoder_backbone={**ENCODER, "blocks": 2}) != digest()


def test_state_dict_names_contain_no_network_prefix() -> None:
    network = {
        "name": "spectral",
        **BASE,
        "features": MELS,
        "encoder_backbone": ENCODER,
        "head": THIRD_PARTY["head"],
    }
    codec = Codec(sample_rate=8000, network=network, quantizer={"name": "fsq", "levels": [5] * 8})
    assert {name.partition(".")[0] for name in codec.state_dict()} <= {"encoder", "quantizer", "decoder"}
    for each in (codec, copy.deepcopy(codec).double()):
        assert each.network.encoder is each.encoder
        assert each.network.decoder is each.decoder
    assert codec.network.encoder_reach == codec.encoder.reach

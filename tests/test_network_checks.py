"""The checks of networks: the built-in ones keep every promise, and each faulty one here is found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq import NetworkSpec, hookimpl
from codecvq.api.reach import Reach
from codecvq.errors import OptionError
from codecvq.networks.interface import Network
from codecvq.plugins import registry
from codecvq.testing import Check, network_checks, parametrize_network, run_checks

HOP, DIM = 16, 4
SMALL: list[tuple[str, dict[str, Any]]] = [
    (
        "spectral",
        {"encoder_width": 16, "encoder_blocks": 1, "decoder_width": 16, "decoder_blocks": 1, "dim": 8},
    ),
    ("seanet", {"filters": 4, "dim": 8}),
]
CAUSAL = [(name, {**options, "causal": True}) for name, options in SMALL]


class Encoder(nn.Module):
    """Nothing is wrong with it: three frames in, by a convolution, one of latents out."""

    reach: Reach | None = Reach(HOP, HOP)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, DIM, 3 * HOP, stride=HOP, padding=HOP)

    def forward(self, wav: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.conv(wav)


class Decoder(nn.Module):
    """Nothing is wrong with it: a convolution over three frames, and one matrix."""

    reach: Reach | None = Reach(1, 1)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(DIM, DIM, 3, padding=1)
        self.out = nn.ConvTranspose1d(DIM, channels, HOP, stride=HOP)

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            latents = torch.where(mask[:, None], latents, 0.0)
        return self.out(self.conv(latents).tanh())


class SeesFarther(Encoder):
    reach = Reach(0, 0)


class SeesBehind(Decoder):
    reach = Reach(1, 0)


class IgnoresTheMask(Decoder):
    def forward(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(latents)


class NormalisesOverTime(Encoder):
    reach = None

    def forward(self, wav: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(wav / (wav.square().mean() + 1e-3))


class DropsInEval(Encoder):
    def forward(self, wav: Tensor, mask: Tensor | None = None) -> Tensor:
        return F.dropout(super().forward(wav), 0.1)


class CountsInEval(Decoder):
    calls: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        self.calls += 1
        return super().forward(latents, mask)


class Forgets(Decoder):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.scale = torch.rand(())

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(latents * self.scale, mask)


class LearnsNothing(Encoder):
    def forward(self, wav: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(wav).detach()


class OneSampleShort(Decoder):
    def forward(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(latents, mask)[:, :, :-1]


#: a part in place of the sound one -> the checks that must notice
FAULTY: dict[type[nn.Module], set[str]] = {
    SeesFarther: {"encoder_reach"},
    SeesBehind: {"decoder_reach"},
    IgnoresTheMask: {"padding"},
    NormalisesOverTime: {"items_are_independent"},
    DropsInEval: {"eval_changes_nothing"},
    CountsInEval: {"eval_changes_nothing"},
    Forgets: {"save_load"},
    LearnsNothing: {"gradients"},
    OneSampleShort: {"shapes"},
}


@contextmanager
def registered(part: type[nn.Module]) -> Iterator[str]:
    """A block in which a network with this part is registered; its name."""

    def make(*, sample_rate: int, channels: int = 1) -> Network:
        encoder = part(channels) if issubclass(part, Encoder) else Encoder(channels)
        decoder = part(channels) if issubclass(part, Decoder) else Decoder(channels)
        return Network(encoder, decoder, DIM, HOP)

    class Plugin:
        @hookimpl
        def codecvq_networks(self) -> Iterator[NetworkSpec]:
            yield NetworkSpec(name="under_test", factory=make)

    origin = registry().register(Plugin(), "network_test")
    try:
        yield "under_test"
    finally:
        registry().unregister(origin)


def found_in(part: type[nn.Module], **options: Any) -> dict[str, str]:
    with registered(part) as name:
        outcomes = list(run_checks(network_checks(name, **options)))
    return {
        outcome.check.short_name: f"{outcome.found}\n{outcome.place}" for outcome in outcomes if outcome.found
    }


@pytest.mark.parametrize("channels", [1, 2])
def test_nothing_is_found_where_nothing_is_wrong(channels: int) -> None:
    assert found_in(Encoder, channels=channels) == {}


@pytest.mark.parametrize("part", FAULTY, ids=lambda part: part.__name__)
def test_what_is_broken_is_found(part: type[nn.Module]) -> None:
    found = found_in(part)
    assert set(found) >= FAULTY[part]
    for check in FAULTY[part]:
        assert "test_network_checks.py:" in found[check]


@pytest.mark.parametrize(("name", "options"), SMALL, ids=[name for name, _ in SMALL])
def test_built_in_networks_keep_every_promise(name: str, options: dict[str, Any]) -> None:
    outcomes = list(run_checks(network_checks(name, **options)))
    assert {o.check.name: o.found for o in outcomes if o.found} == {}
    assert f"{name}/encoder_reach" in {o.check.name for o in outcomes if o.state == "ok" and not o.note}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), CAUSAL, ids=[name for name, _ in CAUSAL])
def test_causal_networks_keep_every_promise(name: str, options: dict[str, Any]) -> None:
    assert {o.check.name: o.found for o in run_checks(network_checks(name, **options)) if o.found} == {}


def test_a_discriminator_has_no_encoder_to_check() -> None:
    with pytest.raises(OptionError, match="is a discriminator"):
        list(network_checks("ms_stft"))


@parametrize_network("seanet", filters=4, dim=8, lstm_layers=1)
def test_a_recurrent_network_keeps_every_promise(check: Check) -> None:
    check.run()

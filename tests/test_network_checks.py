"""Network conformance checks: built-in networks pass them, and each faulty network here fails them."""

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
from codecvq.streaming import State, StreamingModule, append
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
    """A correct encoder: one convolution over three frames."""

    reach: Reach | None = Reach(HOP, HOP)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, DIM, 3 * HOP, stride=HOP, padding=HOP)

    def forward(self, wav: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.conv(wav)


class Decoder(nn.Module):
    """A correct decoder: a convolution over three frames and one transposed convolution."""

    reach: Reach | None = Reach(1, 1)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(DIM, DIM, 3, padding=1)
        self.out = nn.ConvTranspose1d(DIM, channels, HOP, stride=HOP)

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            latents = torch.where(mask[:, None], latents, 0.0)
        return self.out(self.conv(latents).tanh())


class TooSmallEncoderReach(Encoder):
    reach = Reach(0, 0)


class TooSmallDecoderReach(Decoder):
    reach = Reach(1, 0)


class IgnoresMask(Decoder):
    def forward(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(latents)


class NormalizesOverTime(Encoder):
    reach = None

    def forward(self, wav: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(wav / (wav.square().mean() + 1e-3))


class DropsInEval(Encoder):
    def forward(self, wav: Tensor, mask: Tensor | None = None) -> Tensor:
        return F.dropout(super().forward(wav), 0.1)


class ChangesBufferInEval(Decoder):
    calls: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        self.calls += 1
        return super().forward(latents, mask)


class DoesNotSaveScale(Decoder):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.scale = torch.rand(())

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(latents * self.scale, mask)


class DetachesOutput(Encoder):
    def forward(self, wav: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(wav).detach()


class EncoderStream(StreamingModule):
    """The encoder with a cache of the samples before the next frame."""

    def __init__(self, encoder: Encoder) -> None:
        self.conv = encoder.conv

    def start(self, device: torch.device) -> State:
        return {"wav": torch.zeros(1, self.conv.in_channels, HOP, device=device)}

    def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        wav = append(state["wav"], block)  # type: ignore[arg-type]
        wav = F.pad(wav, (0, HOP)) if last else wav
        frames = wav.shape[2] // HOP - 2
        if frames < 1:
            return wav[:, :, :0], {"wav": wav}
        latents = F.conv1d(wav, self.conv.weight, self.conv.bias, stride=HOP)
        return latents[:, :, :frames], {"wav": wav[:, :, frames * HOP :]}


class HasState(Encoder):
    """A correct encoder that streams with exact state."""

    reach = None

    def as_stream(self) -> StreamingModule:
        return EncoderStream(self)


class ForgetsContext(Encoder):
    def as_stream(self) -> StreamingModule:
        class Stream(EncoderStream):
            def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
                output, state = super().step(block, state, last)
                cache = state["wav"]
                assert isinstance(cache, Tensor)
                return output, {"wav": torch.cat([0 * cache[:, :, :HOP], cache[:, :, HOP:]], dim=2)}

        return Stream(self)


class ChangesStateInPlace(Encoder):
    def as_stream(self) -> StreamingModule:
        class Stream(EncoderStream):
            def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
                result = super().step(block, state, last)
                cache = state["wav"]
                assert isinstance(cache, Tensor)
                cache += 1
                return result

        return Stream(self)


class OneSampleShort(Decoder):
    def forward(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(latents, mask)[:, :, :-1]


#: faulty part -> checks that must fail
FAILED_CHECKS: dict[type[nn.Module], set[str]] = {
    TooSmallEncoderReach: {"encoder_reach", "streams"},
    TooSmallDecoderReach: {"decoder_reach", "streams"},
    IgnoresMask: {"padding"},
    NormalizesOverTime: {"items_are_independent"},
    DropsInEval: {"eval_changes_nothing"},
    ChangesBufferInEval: {"eval_changes_nothing"},
    DoesNotSaveScale: {"save_load"},
    DetachesOutput: {"gradients"},
    ForgetsContext: {"streams"},
    ChangesStateInPlace: {"streams"},
    OneSampleShort: {"shapes"},
}


@contextmanager
def registered_network(part: type[nn.Module]) -> Iterator[str]:
    """Register a network that contains `part`, and yield its name."""

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


def check_failures(part: type[nn.Module], **options: Any) -> dict[str, str]:
    """Failed checks of a network that contains `part`: short name -> report and source location."""
    with registered_network(part) as name:
        outcomes = list(run_checks(network_checks(name, **options)))
    return {
        outcome.check.short_name: f"{outcome.found}\n{outcome.place}" for outcome in outcomes if outcome.found
    }


@pytest.mark.parametrize("channels", [1, 2])
def test_correct_networks_pass_all_checks(channels: int) -> None:
    assert check_failures(Encoder, channels=channels) == {}


def test_a_correct_stream_with_state_passes_all_checks() -> None:
    assert check_failures(HasState) == {}


@pytest.mark.parametrize("part", FAILED_CHECKS, ids=lambda part: part.__name__)
def test_faulty_networks_fail_the_expected_checks(part: type[nn.Module]) -> None:
    failures = check_failures(part)
    assert set(failures) >= FAILED_CHECKS[part]
    for check in FAILED_CHECKS[part]:
        assert "test_network_checks.py:" in failures[check]


@pytest.mark.parametrize(("name", "options"), SMALL, ids=[name for name, _ in SMALL])
def test_built_in_networks_pass_all_checks(name: str, options: dict[str, Any]) -> None:
    outcomes = list(run_checks(network_checks(name, **options)))
    assert {o.check.name: o.found for o in outcomes if o.found} == {}
    assert f"{name}/encoder_reach" in {o.check.name for o in outcomes if o.state == "ok" and not o.note}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), CAUSAL, ids=[name for name, _ in CAUSAL])
def test_causal_networks_pass_all_checks(name: str, options: dict[str, Any]) -> None:
    assert {o.check.name: o.found for o in run_checks(network_checks(name, **options)) if o.found} == {}


def test_network_checks_reject_discriminators() -> None:
    with pytest.raises(OptionError, match="is a discriminator"):
        list(network_checks("ms_stft"))


@parametrize_network("seanet", filters=4, dim=8, lstm_layers=1)
def test_recurrent_networks_pass_all_checks(check: Check) -> None:
    check.run()

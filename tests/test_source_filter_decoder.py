"""Pitch in latent channels, and the source-filter decoder that synthesizes at this pitch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from voices import HOP, RATE, glide, octaves_off, voice

from codecvq.codec import Codec, load
from codecvq.errors import OptionError, RunError
from codecvq.networks.build import build_network
from codecvq.networks.interface import AudioWithLosses
from codecvq.networks.voice import pitch_code
from codecvq.networks.voice.decoder import SourceFilterDecoder
from codecvq.networks.voice.grid import OCTAVES, STEPS, grid_size
from codecvq.networks.voice.knots import knots
from codecvq.networks.voice.pitch import Pitch, PitchTracker
from codecvq.networks.voice.pitch_writer import PitchWriter
from codecvq.networks.voice.source_filter import added_loss, expected_position, prediction_losses
from codecvq.quantizer import build_quantizer
from codecvq.training.initial_weights import load_initial_weights
from codecvq.training.recipe import load_recipe

# Pitch in latent channels

QUANTIZER = {"name": "grouped_fsq", "num_codebooks": 3, "levels": [8, 5, 5, 5], "dropout": 0.5}


@pytest.mark.parametrize("channels", [[5, 6, 7], [5, 6, 9]], ids=["one codebook", "two codebooks"])
def test_pitch_channels_are_recovered_after_quantization(channels: list[int]) -> None:
    quantizer = build_quantizer(dim=12, **QUANTIZER).eval()
    position = torch.linspace(0, OCTAVES * STEPS, 500)
    latents = torch.randn(1, 12, 500)
    latents[0, channels] = pitch_code.encode(position).T
    codes = quantizer.encode(latents)
    decoded, present = pitch_code.decode(quantizer.decode(codes)[0, channels].T)
    assert bool(present.all())
    step = (pitch_code.HIGHEST - pitch_code.LOWEST) / (pitch_code.NUM_VALUES - 1)
    inside = position.clamp(pitch_code.LOWEST, pitch_code.HIGHEST)
    assert float((decoded - inside).abs().max()) <= step / 2 + 1e-3
    assert len(set(decoded.tolist())) == pitch_code.NUM_VALUES == 120
    _, present = pitch_code.decode(quantizer.decode(codes[:, :1])[0, channels].T)
    assert not bool(present.any()), "without its codebook, no pitch is present"
    coarse, present = pitch_code.decode(quantizer.decode(codes[:, :2])[0, channels].T)
    assert bool(present.all())
    assert float((coarse - inside).abs().max()) <= (0.5 if channels[2] == 7 else 2.5) * step + 1e-3


@pytest.mark.parametrize(
    ("quantizer", "channels"),
    [
        ({"name": "vq", "codebook_size": 64}, [5, 6, 7]),
        (QUANTIZER, [3, 5, 6]),  # the pitch digits would be in two codebooks, one of which can be absent
        (QUANTIZER, [5, 9, 6]),
        ({**QUANTIZER, "levels": [8, 4, 5, 5]}, [5, 6, 7]),
        ({"name": "fsq", "levels": [3] * 12}, [0, 1, 2]),
    ],
)
def test_quantizers_that_cannot_store_the_pitch_raise(quantizer: dict[str, Any], channels: list[int]) -> None:
    with pytest.raises(OptionError, match=r"pitch_channels are \[.*rounds each of them to 5 levels"):
        Codec(sample_rate=RATE, network={**SOURCE_NETWORK, "pitch_channels": channels}, quantizer=quantizer)


# The decoder

SOURCE_NETWORK: dict[str, Any] = {
    "name": "spectral",
    "phase": "source",
    "encoder_width": 16,
    "encoder_blocks": 1,
    "decoder_width": 16,
    "decoder_blocks": 1,
    "synthesis_hop_length": HOP,
    "dim": 12,
}
WITH_PITCH = {**SOURCE_NETWORK, "pitch_channels": [5, 6, 7]}
REFINED = {**WITH_PITCH, "refiner_width": 16, "refiner_blocks": 2}


PITCH_LOSSES = ("voicing", "pitch", "added")


def codec(network: dict[str, Any]) -> Codec:
    torch.manual_seed(0)
    model = Codec(sample_rate=RATE, network=network, quantizer=QUANTIZER).eval()
    if model.decoder.refiner is not None:  # a new refiner is identity
        torch.nn.init.normal_(model.decoder.refiner.head.weight, std=0.2)
        torch.nn.init.normal_(model.decoder.refiner.spread, std=0.2)
    return model


@pytest.mark.parametrize("channels", [[5, 6, 7], [5, 6, 9]], ids=["one codebook", "two codebooks"])
def test_an_untrained_codec_decodes_the_pitch_of_its_input(channels: list[int]) -> None:
    model, hz = codec({**WITH_PITCH, "pitch_channels": channels}), glide(120, 180)
    model.decoder.pitch.bias.data[:2] = torch.tensor([10.0, 0.0])  # always voiced, no correction of the pitch
    model.decoder.pitch.weight.data[:2] = 0.0
    model.decoder.filters.weight.data.zero_()
    tracker = PitchTracker(RATE, HOP)

    def pitch_error(num_codebooks: int) -> float:
        codes = model.encode(voice(hz), num_codebooks=num_codebooks)
        return float(octaves_off(tracker(model.decode(codes)).hz[0], hz)[6:-6].median())

    assert pitch_error(3) < 0.01
    assert pitch_error(2) < (0.01 if channels[2] == 7 else 0.06)
    assert pitch_error(1) > 0.07, "the pitch is in the second codebook"


@pytest.mark.parametrize(
    "network", [SOURCE_NETWORK, WITH_PITCH, REFINED], ids=["learned", "written", "written and refined"]
)
def test_batch_items_and_padding_do_not_change_the_output(network: dict[str, Any]) -> None:
    model = codec(network)
    # Trained weights give clear decisions. Here rounding would select between pitches.
    model.decoder.pitch.weight.data *= 30
    wav = torch.cat([voice(glide(130, 170)), 0.1 * torch.randn(1, 1, RATE)])
    lengths = torch.tensor([9000, 16000])
    codes = model.encode(wav, lengths=lengths)
    decoded = model.decode(codes, lengths=lengths)
    for item, length in enumerate(lengths.tolist()):
        alone = model.encode(wav[item : item + 1, :, :length])
        assert torch.equal(alone[0], codes[item, :, : alone.shape[2]])
        again = model.decode(alone, num_samples=length)
        # The phase of a nearly silent source depends on the rounding of sums.
        difference = (again[0] - decoded[item, :, :length]).abs().max()
        assert float(difference) < 0.02 * float(again.std())
        assert not bool(decoded[item, :, length:].any())
    assert torch.equal(model.decode(codes, lengths=lengths), decoded), "decoding is deterministic"


@pytest.mark.parametrize(
    "network", [SOURCE_NETWORK, WITH_PITCH, REFINED], ids=["learned", "written", "written and refined"]
)
def test_audio_does_not_depend_on_codes_beyond_the_reach(network: dict[str, Any]) -> None:
    decoder = codec(network).decoder
    assert decoder.reach.past is None
    for seed in range(6):
        torch.manual_seed(seed)
        latents = torch.randint(-1, 2, (1, 12, 40)).float()
        if seed % 2:  # many frames without pitch
            latents[:, 5:8, 14:] = 0
            latents[:, 5:8, 20 + decoder.reach.future] = 1
        changed = latents.clone()
        changed[:, :, 20 + decoder.reach.future :] *= -1
        with torch.no_grad():
            before, after = decoder(latents), decoder(changed)
        difference = (before - after)[0, 0].abs()
        assert float(difference[: 20 * 320].max()) < 1e-7
        assert float(difference[20 * 320 :].max()) > 1e-3


def test_codebooks_sha256_depends_on_the_pitch_channels() -> None:
    """The two codecs differ only in the pitch channels. Their codes are not compatible."""
    codecs = [codec({**SOURCE_NETWORK, "pitch_channels": channels}) for channels in ([5, 6, 7], [5, 6, 9])]
    written_at = {"encoder.written_at": torch.tensor([5, 6, 9])}
    codecs[1].load_state_dict({**codecs[0].state_dict(), **written_at})
    assert codecs[0].codebooks_sha256 != codecs[1].codebooks_sha256
    with pytest.raises(RuntimeError, match=r"in channels \[5, 6, 7\], and pitch_channels are \[5, 6, 9\]"):
        codecs[1].load_state_dict(codecs[0].state_dict())


def test_initial_weights_with_other_pitch_channels_raise(tmp_path: Path) -> None:
    folder = codec(WITH_PITCH).save(tmp_path / "codec")
    recipe = load_recipe("speech-16k", [f"training.init_from={folder}"])
    with pytest.raises(
        RunError, match=r"do not fit this recipe: their pitch is written in channels \[5, 6, 7\]"
    ):
        load_initial_weights(recipe, codec({**WITH_PITCH, "pitch_channels": [5, 6, 9]}), None)


def test_frames_without_pitch_do_not_change_adjacent_frames() -> None:
    """Codes from a language model may contain such frames."""
    decoder = codec(WITH_PITCH).decoder
    latents = torch.zeros(1, 9, 12)
    latents[..., 5:8] = pitch_code.encode(torch.full((1, 9), 100.0)).tanh()
    latents[:, 4, 5:8] = 0
    reading = decoder.held_pitch(latents, None)
    assert reading is not None
    assert reading.present[0].tolist() == [True] * 4 + [False] + [True] * 4
    torch.testing.assert_close(reading.position, reading.position[:, :1].expand(1, 9))


def test_only_pitch_losses_train_the_pitch() -> None:
    model, wav = codec(WITH_PITCH).train(), voice(glide(120, 180)).repeat(2, 1, 1)
    out = model(wav)
    assert {f"decoder/{name}" for name in PITCH_LOSSES} <= out.losses.keys()
    out.wav.square().sum().backward()
    assert model.decoder.filters.weight.grad is not None
    assert model.decoder.pitch.weight.grad is None, "the audio gives no gradient to the pitch"
    model.zero_grad()
    torch.stack([model(wav).losses[f"decoder/{name}"] for name in PITCH_LOSSES]).sum().backward()
    assert model.decoder.filters.weight.grad is None
    assert bool(model.decoder.pitch.weight.grad.abs().sum(dim=1)[:2].all())
    optimizer = torch.optim.Adam(model.decoder.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        pitch_losses = {name: model(wav, None, 3).losses[f"decoder/{name}"] for name in PITCH_LOSSES}
        torch.stack(list(pitch_losses.values())).sum().backward()
        optimizer.step()
        losses.append({name: float(pitch_losses[name].detach()) for name in pitch_losses})
    for name in PITCH_LOSSES:
        assert losses[-1][name] < 0.7 * losses[0][name], name


def test_decoders_return_losses_only_with_a_reference() -> None:
    decoder = codec(SOURCE_NETWORK).decoder
    assert isinstance(decoder, SourceFilterDecoder)
    latents, wav = torch.randn(1, 12, 20), voice(glide(120, 180, 0.4))
    with_reference, without = decoder(latents, None, wav), decoder(latents)
    assert isinstance(with_reference, AudioWithLosses)
    assert with_reference.losses.keys() == {"voicing", "pitch"}, "the latents contain no pitch"
    assert torch.equal(with_reference.wav, without)


def test_pitch_losses_equal_their_definitions() -> None:
    steps, position = torch.arange(grid_size()), torch.tensor([[40.3, 70.0, 99.0]])
    voiced = torch.tensor([[True, True, False]])
    exact = -0.5 * (steps - position[..., None]).square()
    losses = prediction_losses(torch.tensor([[0.0, 2.0, -1.0]]), exact, Pitch(position, voiced))
    probabilities = exact[0, :2].softmax(dim=1)
    entropy = -(probabilities * probabilities.log().clamp(min=-1e9)).nan_to_num().sum(dim=1).mean()
    assert float(losses["pitch"]) == pytest.approx(0.2 * float(entropy), rel=1e-4), "the minimum of the loss"
    logistic = [math.log(2), math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1))]
    assert float(losses["voicing"]) == pytest.approx(sum(logistic) / 3)
    voicing = torch.nn.functional.pad(torch.tensor([[0.0, 2.0, -1.0]]), (0, 2))
    longer = Pitch(torch.nn.functional.pad(position, (0, 2)), torch.nn.functional.pad(voiced, (0, 2)))
    logits = torch.nn.functional.pad(exact, (0, 0, 0, 2))
    real = torch.tensor([[True, True, True, False, False]])
    again = prediction_losses(voicing, logits, longer, real)
    torch.testing.assert_close(again, losses)
    torch.testing.assert_close(expected_position(exact), position, atol=0.02, rtol=0)
    written = torch.tensor([[41.3, 90.0, 99.0]])  # one step off, one octave off, unvoiced
    present = torch.ones(1, 3, dtype=torch.bool)
    assert float(added_loss(written, present, Pitch(position, voiced))) == pytest.approx(1.0)
    assert float(added_loss(written, ~present, Pitch(position, voiced))) == 0.0


def test_training_tracks_the_pitch_once_for_encoder_and_decoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, calls = codec(WITH_PITCH).train(), []
    track = PitchTracker._track
    monkeypatch.setattr(
        PitchTracker, "_track", lambda tracker, *args: calls.append(0) or track(tracker, *args)
    )

    def pitch_loss(codec: Codec, wav: torch.Tensor) -> torch.Tensor:
        return codec(wav, num_codebooks=3).losses["decoder/pitch"]

    wav = voice(glide(120, 180))
    first = pitch_loss(model, wav)
    assert len(calls) == 1
    wav.copy_(voice(glide(240, 300)))  # the caller reuses the buffer
    second = pitch_loss(model, wav)
    assert len(calls) == 2
    assert not torch.equal(second, first)
    torch.testing.assert_close(second, pitch_loss(codec(WITH_PITCH).train(), wav.clone()))
    model.encoder(wav)
    wav.copy_(voice(glide(120, 180)))
    torch.testing.assert_close(pitch_loss(model, wav), first)


def test_a_codec_in_training_mode_encodes_in_inference_mode() -> None:
    model, wav = codec(WITH_PITCH), voice(glide(120, 180))
    expected = model.encode(wav)
    model.train()
    with torch.inference_mode():
        assert torch.equal(model.encode(wav.clone()), expected)
        model(wav.clone(), num_codebooks=3)


class FixedTracker(torch.nn.Module):
    """A tracker that returns a given pitch."""

    def __init__(self, pitch: Pitch) -> None:
        super().__init__()
        self.pitch, self.masks = pitch, []

    def forward(self, wav: torch.Tensor, mask: torch.Tensor | None) -> Pitch:
        self.masks.append(mask)
        return self.pitch


@pytest.mark.parametrize("channels", [[5, 6, 7], [5, 6, 9]], ids=["one codebook", "two codebooks"])
@pytest.mark.parametrize("padded", [False, True])
def test_the_pitch_writer_writes_knots_of_the_pitch(channels: list[int], padded: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    position = 70 + 3 * torch.randn(2, 60, generator=generator).cumsum(dim=1)
    voiced = torch.rand(2, 60, generator=generator) < 0.5
    mask = torch.arange(30) < torch.tensor([[30], [22]]) if padded else None
    tracker = FixedTracker(Pitch(position, voiced))
    latents = torch.randn(2, 30, 12, generator=generator)
    latents_with_pitch = PitchWriter(tracker, 2, channels)(latents, torch.zeros(2, 1, 30 * 320), mask)
    rest = [channel for channel in range(12) if channel not in channels]
    assert torch.equal(latents_with_pitch[..., rest], latents[..., rest])
    if padded:
        assert torch.equal(tracker.masks[0], mask.repeat_interleave(2, dim=1))
    decoded, present = pitch_code.decode(latents_with_pitch[..., channels].tanh())
    expected = knots(position, voiced, 2, mask).clamp(pitch_code.LOWEST, pitch_code.HIGHEST)
    step = (pitch_code.HIGHEST - pitch_code.LOWEST) / (pitch_code.NUM_VALUES - 1)
    assert bool(present.all())
    assert float((decoded - expected).abs().max()) <= step / 2 + 1e-3
    middles = position.view(2, 30, 2).mean(dim=2)
    assert float((decoded - middles).abs().max()) > 2 * step, "knots are not the center values"


def test_saving_does_not_change_codes_or_audio(tmp_path) -> None:
    model, wav = codec(WITH_PITCH), voice(glide(200, 150))
    again = load(model.save(tmp_path / "codec"))
    codes = model.encode(wav)
    assert torch.equal(again.encode(wav), codes)
    assert torch.equal(again.decode(codes), model.decode(codes))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phase": "retrieved", "pitch_channels": [0, 1, 2]}, "phase is retrieved, which has no pitch"),
        (
            {"phase": "source", "pitch_channels": [10, 11, 12], "dim": 12},
            "with dim 12, needed are 3 different",
        ),
        ({"phase": "source", "pitch_channels": [1, 1, 2], "dim": 12}, "3 different numbers from 0 to 11"),
        ({"phase": "source", "pitch_channels": [1, 2, 3, 3], "dim": 12}, "3 different numbers from 0 to 11"),
        (
            {"phase": "source", "pitch_channels": [1, 2.5, 3], "dim": 12},
            r"is 2\.5; needed is a valid integer",
        ),
        ({"phase": "source", "pitch_channels": 5, "dim": 12}, r"pitch_channels is 5; needed is a valid list"),
        ({"phase": "source", "causal": True, "refiner_blocks": 1}, "the refiner needs future frames"),
        ({"phase": "source", "causal": True, "synthesis_window_length": 900}, "even multiple of the step"),
        ({"phase": "source", "synthesis_hop_length": 300}, "must divide hop_length"),
        ({"phase": "predicted", "refiner_blocks": 2}, "refiner_blocks is 2, but phase is predicted"),
        ({"phase": "source", "refiner_blocks": -1}, "refiner_blocks is -1"),
        ({"phase": "source", "phase_iterations": 8}, "are for phase: retrieved, but phase is source"),
        ({"phase": "predicted", "training_phase": "retrieved"}, "are for phase: retrieved"),
    ],
)
def test_invalid_source_options_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        build_network(sample_rate=RATE, name="spectral", **options)


@pytest.mark.parametrize(("hop", "step"), [(441, 441), (441, 147), (256, 256), (1024, 256)])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_any_hop_and_length_work(hop: int, step: int, frames: int) -> None:
    window = 4 * hop + hop % 2
    model = Codec(
        sample_rate=44100,
        network={**WITH_PITCH, "hop_length": hop, "window_length": window, "synthesis_hop_length": step},
        quantizer=QUANTIZER,
    )
    wav = model.decode(model.encode(0.1 * torch.randn(2, 1, frames * hop)))
    assert wav.shape == (2, 1, frames * hop)
    assert bool(wav.isfinite().all())

"""A pitch in channels of its own, and a decoder that speaks at it."""

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
from codecvq.networks.voice.decoder import SourceFilterDecoder, added_loss, expected_position, voice_losses
from codecvq.networks.voice.knots import knots
from codecvq.networks.voice.pitch import OCTAVES, STEPS, Pitch, PitchTracker, grid_size
from codecvq.networks.voice.pitch_writer import PitchWriter
from codecvq.quantizer import build_quantizer
from codecvq.training.initial_weights import load_initial_weights
from codecvq.training.recipe import load_recipe

# a pitch in channels

WRITING = {"name": "grouped_fsq", "num_codebooks": 3, "levels": [8, 5, 5, 5], "dropout": 0.5}


@pytest.mark.parametrize("channels", [[5, 6, 7], [5, 6, 9]], ids=["one codebook", "two codebooks"])
def test_a_quantizer_of_five_levels_keeps_a_written_pitch(channels: list[int]) -> None:
    quantizer = build_quantizer(dim=12, **WRITING).eval()
    position = torch.linspace(0, OCTAVES * STEPS, 500)
    latents = torch.randn(1, 12, 500)
    latents[0, channels] = pitch_code.encode(position).T
    codes = quantizer.encode(latents)
    found, there = pitch_code.decode(quantizer.decode(codes)[0, channels].T)
    assert bool(there.all())
    step = (pitch_code.HIGHEST - pitch_code.LOWEST) / (pitch_code.NUM_VALUES - 1)
    inside = position.clamp(pitch_code.LOWEST, pitch_code.HIGHEST)
    assert float((found - inside).abs().max()) <= step / 2 + 1e-3
    assert len(set(found.tolist())) == pitch_code.NUM_VALUES == 120
    _, there = pitch_code.decode(quantizer.decode(codes[:, :1])[0, channels].T)
    assert not bool(there.any()), "its codebook is left out"
    coarse, there = pitch_code.decode(quantizer.decode(codes[:, :2])[0, channels].T)
    assert bool(there.all())
    assert float((coarse - inside).abs().max()) <= (0.5 if channels[2] == 7 else 2.5) * step + 1e-3


@pytest.mark.parametrize(
    ("quantizer", "channels"),
    [
        ({"name": "vq", "codebook_size": 64}, [5, 6, 7]),
        (WRITING, [3, 5, 6]),  # the digits of a cell in two codebooks, of which one may be left out
        (WRITING, [5, 9, 6]),
        ({**WRITING, "levels": [8, 4, 5, 5]}, [5, 6, 7]),
        ({"name": "fsq", "levels": [3] * 12}, [0, 1, 2]),
    ],
)
def test_a_quantizer_that_does_not_keep_the_pitch_is_told(
    quantizer: dict[str, Any], channels: list[int]
) -> None:
    with pytest.raises(OptionError, match=r"pitch_channels are \[.*rounds each of them to 5 levels"):
        Codec(sample_rate=RATE, network={**SPEAKING, "pitch_channels": channels}, quantizer=quantizer)


# the decoder

SPEAKING: dict[str, Any] = {
    "name": "spectral",
    "phase": "source",
    "encoder_width": 16,
    "encoder_blocks": 1,
    "decoder_width": 16,
    "decoder_blocks": 1,
    "synthesis_hop_length": HOP,
    "dim": 12,
}
WITH_PITCH = {**SPEAKING, "pitch_channels": [5, 6, 7]}
REFINED = {**WITH_PITCH, "refiner_width": 16, "refiner_blocks": 2}


OWN = ("voicing", "pitch", "added")  # losses


def codec(network: dict[str, Any]) -> Codec:
    torch.manual_seed(0)
    made = Codec(sample_rate=RATE, network=network, quantizer=WRITING).eval()
    if made.decoder.refiner is not None:  # a new one changes nothing
        torch.nn.init.normal_(made.decoder.refiner.head.weight, std=0.2)
        torch.nn.init.normal_(made.decoder.refiner.spread, std=0.2)
    return made


@pytest.mark.parametrize("channels", [[5, 6, 7], [5, 6, 9]], ids=["one codebook", "two codebooks"])
def test_an_untrained_codec_speaks_at_the_pitch_that_it_heard(channels: list[int]) -> None:
    made, hz = codec({**WITH_PITCH, "pitch_channels": channels}), glide(120, 180)
    made.decoder.pitch.bias.data[:2] = torch.tensor([10.0, 0.0])  # always voiced, nothing added
    made.decoder.pitch.weight.data[:2] = 0.0
    made.decoder.filters.weight.data.zero_()
    tracker = PitchTracker(RATE, HOP)

    def off(num_codebooks: int) -> float:
        codes = made.encode(voice(hz), num_codebooks=num_codebooks)
        return float(octaves_off(tracker(made.decode(codes)).hz[0], hz)[6:-6].median())

    assert off(3) < 0.01
    assert off(2) < (0.01 if channels[2] == 7 else 0.06)
    assert off(1) > 0.07, "the pitch is in the second codebook"


@pytest.mark.parametrize(
    "network", [SPEAKING, WITH_PITCH, REFINED], ids=["learned", "written", "written and refined"]
)
def test_neighbours_and_padding_change_nothing(network: dict[str, Any]) -> None:
    made = codec(network)
    # trained ones are decided; here rounding would choose between pitches
    made.decoder.pitch.weight.data *= 30
    wav = torch.cat([voice(glide(130, 170)), 0.1 * torch.randn(1, 1, RATE)])
    lengths = torch.tensor([9000, 16000])
    codes = made.encode(wav, lengths=lengths)
    decoded = made.decode(codes, lengths=lengths)
    for item, length in enumerate(lengths.tolist()):
        alone = made.encode(wav[item : item + 1, :, :length])
        assert torch.equal(alone[0], codes[item, :, : alone.shape[2]])
        again = made.decode(alone, num_samples=length)
        # where a source has nearly nothing, its phases hang on how sums are rounded
        apart = (again[0] - decoded[item, :, :length]).abs().max()
        assert float(apart) < 0.02 * float(again.std())
        assert not bool(decoded[item, :, length:].any())
    assert torch.equal(made.decode(codes, lengths=lengths), decoded), "the same each time"


@pytest.mark.parametrize(
    "network", [SPEAKING, WITH_PITCH, REFINED], ids=["learned", "written", "written and refined"]
)
def test_audio_hangs_on_no_codes_beyond_its_reach(network: dict[str, Any]) -> None:
    decoder = codec(network).decoder
    assert decoder.reach.past is None
    for seed in range(6):
        torch.manual_seed(seed)
        latents = torch.randint(-1, 2, (1, 12, 40)).float()
        if seed % 2:  # a long time without a written pitch
            latents[:, 5:8, 14:] = 0
            latents[:, 5:8, 20 + decoder.reach.future] = 1
        changed = latents.clone()
        changed[:, :, 20 + decoder.reach.future :] *= -1
        with torch.no_grad():
            before, after = decoder(latents), decoder(changed)
        apart = (before - after)[0, 0].abs()
        assert float(apart[: 20 * 320].max()) < 1e-7
        assert float(apart[20 * 320 :].max()) > 1e-3


def test_hashes_tell_where_the_pitch_is_written() -> None:
    """Codes of two codecs that differ in nothing else are not each other's."""
    codecs = [codec({**SPEAKING, "pitch_channels": channels}) for channels in ([5, 6, 7], [5, 6, 9])]
    written_at = {"encoder.written_at": torch.tensor([5, 6, 9])}
    codecs[1].load_state_dict({**codecs[0].state_dict(), **written_at})
    assert codecs[0].codebooks_sha256 != codecs[1].codebooks_sha256
    with pytest.raises(RuntimeError, match=r"in channels \[5, 6, 7\], and pitch_channels are \[5, 6, 9\]"):
        codecs[1].load_state_dict(codecs[0].state_dict())


def test_a_training_does_not_begin_from_weights_with_another_pitch(tmp_path: Path) -> None:
    folder = codec(WITH_PITCH).save(tmp_path / "codec")
    recipe = load_recipe("speech-16k", [f"training.init_from={folder}"])
    with pytest.raises(
        RunError, match=r"do not fit this recipe: their pitch is written in channels \[5, 6, 7\]"
    ):
        load_initial_weights(recipe, codec({**WITH_PITCH, "pitch_channels": [5, 6, 9]}), None)


def test_frames_without_a_written_pitch_leave_their_neighbours_alone() -> None:
    """As codes of a language model may have them."""
    decoder = codec(WITH_PITCH).decoder
    latents = torch.zeros(1, 9, 12)
    latents[..., 5:8] = pitch_code.encode(torch.full((1, 9), 100.0)).tanh()
    latents[:, 4, 5:8] = 0
    _, reading = decoder._read(latents, None)
    assert reading is not None
    assert reading.present[0].tolist() == [True] * 4 + [False] + [True] * 4
    torch.testing.assert_close(reading.position, reading.position[:, :1].expand(1, 9))


def test_training_learns_the_pitch_from_losses_of_its_own() -> None:
    made, wav = codec(WITH_PITCH).train(), voice(glide(120, 180)).repeat(2, 1, 1)
    out = made(wav)
    assert {f"decoder/{name}" for name in OWN} <= out.losses.keys()
    out.wav.square().sum().backward()
    assert made.decoder.filters.weight.grad is not None
    assert made.decoder.pitch.weight.grad is None, "of what is heard nothing reaches the pitch"
    made.zero_grad()
    torch.stack([made(wav).losses[f"decoder/{name}"] for name in OWN]).sum().backward()
    assert made.decoder.filters.weight.grad is None
    assert bool(made.decoder.pitch.weight.grad.abs().sum(dim=1)[:2].all())
    optimizer = torch.optim.Adam(made.decoder.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        own = {name: made(wav, None, 3).losses[f"decoder/{name}"] for name in OWN}
        torch.stack(list(own.values())).sum().backward()
        optimizer.step()
        losses.append({name: float(own[name].detach()) for name in own})
    for name in OWN:
        assert losses[-1][name] < 0.7 * losses[0][name], name


def test_a_decoder_gives_losses_where_it_is_given_the_recording_alone() -> None:
    decoder = codec(SPEAKING).decoder
    assert isinstance(decoder, SourceFilterDecoder)
    latents, wav = torch.randn(1, 12, 20), voice(glide(120, 180, 0.4))
    told, alone = decoder(latents, None, wav), decoder(latents)
    assert isinstance(told, AudioWithLosses)
    assert told.losses.keys() == {"voicing", "pitch"}, "nothing is written"
    assert torch.equal(told.wav, alone)


def test_losses_of_the_pitch_are_their_definitions() -> None:
    steps, position = torch.arange(grid_size()), torch.tensor([[40.3, 70.0, 99.0]])
    voiced = torch.tensor([[True, True, False]])
    exact = -0.5 * (steps - position[..., None]).square()
    losses = voice_losses(torch.tensor([[0.0, 2.0, -1.0]]), exact, Pitch(position, voiced))
    likely = exact[0, :2].softmax(dim=1)
    entropy = -(likely * likely.log().clamp(min=-1e9)).nan_to_num().sum(dim=1).mean()
    assert float(losses["pitch"]) == pytest.approx(0.2 * float(entropy), rel=1e-4), "no loss is less"
    logistic = [math.log(2), math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1))]
    assert float(losses["voicing"]) == pytest.approx(sum(logistic) / 3)
    padded = (torch.nn.functional.pad(given, (0, 2)) for given in (torch.tensor([[0.0, 2.0, -1.0]]), voiced))
    voicing, beyond = padded
    longer = Pitch(torch.nn.functional.pad(position, (0, 2)), beyond)
    heights = torch.nn.functional.pad(exact, (0, 0, 0, 2))
    real = torch.tensor([[True, True, True, False, False]])
    again = voice_losses(voicing, heights, longer, real)
    torch.testing.assert_close(again, losses)
    torch.testing.assert_close(expected_position(exact), position, atol=0.02, rtol=0)
    written = torch.tensor([[41.3, 90.0, 99.0]])  # a step off, an octave off, unvoiced
    there = torch.ones(1, 3, dtype=torch.bool)
    assert float(added_loss(written, there, Pitch(position, voiced))) == pytest.approx(1.0)
    assert float(added_loss(written, ~there, Pitch(position, voiced))) == 0.0


def test_in_training_encoder_and_decoder_hear_a_pitch_that_is_tracked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, heard = codec(WITH_PITCH).train(), []
    track = PitchTracker._track
    monkeypatch.setattr(
        PitchTracker, "_track", lambda tracker, *args: heard.append(0) or track(tracker, *args)
    )

    def lost(codec: Codec, wav: torch.Tensor) -> torch.Tensor:
        return codec(wav, num_codebooks=3).losses["decoder/pitch"]

    wav = voice(glide(120, 180))
    first = lost(made, wav)
    assert len(heard) == 1
    wav.copy_(voice(glide(240, 300)))  # a buffer that is filled again
    second = lost(made, wav)
    assert len(heard) == 2
    assert not torch.equal(second, first)
    torch.testing.assert_close(second, lost(codec(WITH_PITCH).train(), wav.clone()))
    made.encoder(wav)
    wav.copy_(voice(glide(120, 180)))
    torch.testing.assert_close(lost(made, wav), first)


def test_a_codec_in_training_mode_encodes_where_nothing_is_learned() -> None:
    made, wav = codec(WITH_PITCH), voice(glide(120, 180))
    expected = made.encode(wav)
    made.train()
    with torch.inference_mode():
        assert torch.equal(made.encode(wav.clone()), expected)
        made(wav.clone(), num_codebooks=3)


class HeardBefore(torch.nn.Module):
    """A tracker that was told what to find."""

    def __init__(self, pitch: Pitch) -> None:
        super().__init__()
        self.pitch, self.masks = pitch, []

    def forward(self, wav: torch.Tensor, mask: torch.Tensor | None) -> Pitch:
        self.masks.append(mask)
        return self.pitch


@pytest.mark.parametrize("channels", [[5, 6, 7], [5, 6, 9]], ids=["one codebook", "two codebooks"])
@pytest.mark.parametrize("padded", [False, True])
def test_what_is_written_is_the_knots_of_lines_that_follow_the_pitch(
    channels: list[int], padded: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    position = 70 + 3 * torch.randn(2, 60, generator=generator).cumsum(dim=1)
    voiced = torch.rand(2, 60, generator=generator) < 0.5
    mask = torch.arange(30) < torch.tensor([[30], [22]]) if padded else None
    tracker = HeardBefore(Pitch(position, voiced))
    latents = torch.randn(2, 30, 12, generator=generator)
    found = PitchWriter(tracker, 2, channels)(latents, torch.zeros(2, 1, 30 * 320), mask)
    rest = [channel for channel in range(12) if channel not in channels]
    assert torch.equal(found[..., rest], latents[..., rest])
    if padded:
        assert torch.equal(tracker.masks[0], mask.repeat_interleave(2, dim=1))
    read, there = pitch_code.decode(found[..., channels].tanh())
    wanted = knots(position, voiced, 2, mask).clamp(pitch_code.LOWEST, pitch_code.HIGHEST)
    step = (pitch_code.HIGHEST - pitch_code.LOWEST) / (pitch_code.NUM_VALUES - 1)
    assert bool(there.all())
    assert float((read - wanted).abs().max()) <= step / 2 + 1e-3
    middles = position.view(2, 30, 2).mean(dim=2)
    assert float((read - middles).abs().max()) > 2 * step, "knots are not the middle values"


def test_what_a_codec_speaks_survives_saving(tmp_path) -> None:
    made, wav = codec(WITH_PITCH), voice(glide(200, 150))
    again = load(made.save(tmp_path / "codec"))
    codes = made.encode(wav)
    assert torch.equal(again.encode(wav), codes)
    assert torch.equal(again.decode(codes), made.decode(codes))


@pytest.mark.parametrize(
    ("options", "says"),
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
        ({"phase": "source", "causal": True}, "phase: source needs future frames"),
        ({"phase": "source", "synthesis_hop_length": 300}, "must divide hop_length"),
        ({"phase": "predicted", "refiner_blocks": 2}, "refiner_blocks is 2, but phase is predicted"),
        ({"phase": "source", "refiner_blocks": -1}, "refiner_blocks is -1"),
        ({"phase": "source", "phase_iterations": 8}, "are for phase: retrieved, but phase is source"),
        ({"phase": "predicted", "training_phase": "retrieved"}, "are for phase: retrieved"),
    ],
)
def test_invalid_network_options_raise(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        build_network(sample_rate=RATE, name="spectral", **options)


@pytest.mark.parametrize(("hop", "step"), [(441, 441), (441, 147), (256, 256), (1024, 256)])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_any_hop_and_length_will_do(hop: int, step: int, frames: int) -> None:
    window = 4 * hop + hop % 2
    made = Codec(
        sample_rate=44100,
        network={**WITH_PITCH, "hop_length": hop, "window_length": window, "synthesis_hop_length": step},
        quantizer=WRITING,
    )
    wav = made.decode(made.encode(0.1 * torch.randn(2, 1, frames * hop)))
    assert wav.shape == (2, 1, frames * hop)
    assert bool(wav.isfinite().all())

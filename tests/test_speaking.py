"""Speech from a source: the pitch of a recording, in channels of its own, and what a decoder makes of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from codecvq_free_speech import embedded

from codecvq.codec import Codec, load
from codecvq.errors import OptionError
from codecvq.networks import pitch_code
from codecvq.networks.build import build_network
from codecvq.networks.interface import WithLosses
from codecvq.networks.pitch import (
    OCTAVES,
    STEPS,
    Correlation,
    Pitch,
    PitchTracker,
    grid_size,
    hz_of,
)
from codecvq.networks.source import between, held, noise, pulses
from codecvq.networks.speaking import SpeakingDecoder, added_loss, likeliest, voice_losses
from codecvq.quantizer import build_quantizer

RATE, HOP = 16000, 160


def voice(hz: torch.Tensor, harmonics: int = 12, slope: float = 1.0, lowest: int = 1) -> torch.Tensor:
    """Audio `[1, 1, S]` of harmonics that fall off, for a frequency a sample `[S]`."""
    turns = 2 * torch.pi * (hz.double() / RATE).cumsum(dim=0)
    tones = [(n * turns).cos() / n**slope for n in range(lowest, harmonics + 1)]
    return 0.1 * torch.stack(tones).sum(dim=0).float()[None, None]


def glide(low: float, high: float, seconds: float = 1.0) -> torch.Tensor:
    return torch.exp(torch.linspace(math.log(low), math.log(high), round(seconds * RATE)))


def octaves_off(found: torch.Tensor, hz: torch.Tensor) -> torch.Tensor:
    """Of frequencies a frame, against those a sample in the middle of each."""
    return (found / hz[HOP // 2 :: HOP]).log2().abs()


# the pitch of a recording


@pytest.mark.parametrize(("low", "high"), [(66, 90), (100, 160), (210, 150), (180, 400), (500, 420)])
@pytest.mark.parametrize("sound", ["vowel", "bright", "no fundamental", "noisy"])
def test_the_pitch_of_a_glide_is_found(low: float, high: float, sound: str) -> None:
    hz = glide(low, high)
    made = {
        "vowel": voice(hz),
        "bright": voice(hz, slope=0.2),
        "no fundamental": voice(hz, lowest=2),
        "noisy": voice(hz) + 0.02 * torch.randn(1, 1, len(hz)),
    }[sound]
    pitch = PitchTracker(RATE, HOP)(made)
    inside = slice(4, -4)  # windows that hold nothing but the voice
    assert bool(pitch.voiced[0, inside].all())
    off = octaves_off(pitch.hz[0], hz)[inside]
    assert float(off.max()) < 0.03, "about two per cent"
    assert float(off.median()) < 0.006


def test_silence_and_noise_have_no_pitch() -> None:
    tracker = PitchTracker(RATE, HOP)
    silent = tracker(torch.zeros(2, 1, RATE))
    assert not bool(silent.voiced.any())
    assert bool(silent.hz.isfinite().all())
    torch.manual_seed(0)
    assert float(tracker(0.1 * torch.randn(1, 1, RATE)).voiced.float().mean()) < 0.05


def test_between_voices_the_pitch_goes_in_a_line_and_at_the_ends_it_holds() -> None:
    wav = torch.zeros(1, 1, RATE)
    wav[:, :, 3200:6400] = voice(torch.full((3200,), 120.0))
    wav[:, :, 9600:12800] = voice(torch.full((3200,), 240.0))
    pitch = PitchTracker(RATE, HOP)(wav)
    hz, voiced = pitch.hz[0], pitch.voiced[0].nonzero().flatten()
    assert 17 <= int(voiced[0]) <= 22
    assert 77 <= int(voiced[-1]) <= 82
    assert not bool(pitch.voiced[0, 45:55].any())
    torch.testing.assert_close(hz[:18], hz[:1].expand(18))
    torch.testing.assert_close(hz[85:], hz[-1:].expand(15))
    steps = pitch.position[0, 45:55].diff()
    torch.testing.assert_close(steps, steps[:1].expand(9), atol=1e-3, rtol=0)
    assert float(steps[0]) > 0


def test_the_path_found_is_the_best_one() -> None:
    tracker, frames = PitchTracker(RATE, HOP), 7
    torch.manual_seed(0)
    strengths = torch.rand(1, frames, grid_size() + 1)
    found = tracker._best_path(strengths, None)[0]

    def worth(path: torch.Tensor) -> float:
        total = float(strengths[0, range(frames), path].sum())
        for before, after in zip(path[:-1].tolist(), path[1:].tolist(), strict=True):
            if (before == grid_size()) != (after == grid_size()):
                total -= 0.14
            elif before != grid_size():
                total -= 0.35 * abs(before - after) / STEPS
        return total

    best = worth(found)
    assert best > worth(strengths[0].argmax(dim=1)), "the strongest of each frame leap about"
    for frame in range(frames):
        for state in range(grid_size() + 1):
            other = found.clone()
            other[frame] = state
            assert worth(other) <= best + 1e-5


def test_correlations_of_a_tone_are_a_cosine() -> None:
    correlation = Correlation(RATE, HOP, 60.0)
    hz = 200.0
    found, sizes = correlation(0.5 * torch.cos(2 * torch.pi * hz * torch.arange(RATE) / RATE)[None])
    expected = torch.cos(2 * torch.pi * hz / hz_of(torch.arange(grid_size()).float()))
    torch.testing.assert_close(found[0, 50], expected, atol=0.05, rtol=0)
    torch.testing.assert_close(sizes[0, 50], torch.tensor(0.5), atol=0.01, rtol=0)


def test_what_stands_behind_an_end_does_not_change_the_pitch() -> None:
    tracker, wav = PitchTracker(RATE, HOP), torch.randn(2, 1, RATE)
    wav[0, :, : 60 * HOP] = voice(glide(130, 170, 0.6))
    wav[1] = voice(glide(230, 250))
    mask = torch.arange(100) < torch.tensor([[60], [100]])
    together = tracker(wav, mask)
    alone, other = tracker(wav[:1, :, : 60 * HOP]), tracker(wav[1:])
    torch.testing.assert_close(together.position[:1, :60], alone.position)
    assert torch.equal(together.voiced[:1, :60], alone.voiced)
    assert not bool(together.voiced[0, 60:].any())
    torch.testing.assert_close(together.position[1:], other.position)


@pytest.mark.parametrize("hop", [160, 240, 320, 640])
def test_speakers_of_the_box_have_the_pitch_of_their_kind(hop: int) -> None:
    """Three women; each hop sees the same voice."""
    tracker, medians = PitchTracker(RATE, hop), {}
    for clip in list(embedded.clips())[::12]:
        samples = clip.read(RATE)
        pitch = tracker(torch.from_numpy(samples[: len(samples) // hop * hop])[None, None])
        assert 0.3 < float(pitch.voiced.float().mean()) < 0.98
        medians.setdefault(clip.speaker, []).append(float(pitch.hz[pitch.voiced].median()))
    for speaker, hz in medians.items():
        assert 160 < np.median(hz) < 260, speaker


# the source


def test_pulses_are_a_sum_of_cosines() -> None:
    hz = torch.tensor([[100.0, 120.0, 250.0, 180.0, 90.0]])
    made = pulses(hz, HOP, RATE)
    rates = between(hz.log(), HOP).exp().double() / RATE
    turns = rates.cumsum(dim=1)
    most = (0.5 / rates.float()).floor()
    expected = torch.zeros_like(turns)
    for n in range(1, int(most.max()) + 1):
        expected += torch.where(n <= most, (2 * torch.pi * n * turns).cos(), 0.0)
    expected /= (most.double() / 2).sqrt()
    assert made.shape == (1, 5 * HOP)
    torch.testing.assert_close(made.double(), expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("hz", [61.0, 123.4, 390.0])
def test_pulses_have_their_period_and_power_one(hz: float) -> None:
    made = pulses(torch.full((1, 200), hz), HOP, RATE)[0]
    assert float(made.square().mean()) == pytest.approx(1.0, rel=0.05)
    spectrum = torch.fft.rfft(made * torch.hann_window(len(made))).abs()
    peaks = spectrum > 0.3 * spectrum.max()
    places = peaks.nonzero().flatten() * RATE / len(made) / hz
    assert float((places - places.round()).abs().max()) < 0.04, "at multiples of the pitch alone"
    assert len(set(places.round().int().tolist())) == int(RATE / 2 / hz)


def test_noise_is_white_and_goes_on_where_it_left_off() -> None:
    device = torch.device("cpu")
    made = noise(1 << 16, 0, device)
    assert float(made.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(made.square().mean()) == pytest.approx(1.0, abs=0.02)
    for lag in (1, 2, 3, 7, HOP, 2 * HOP):
        assert abs(float((made[lag:] * made[:-lag]).mean())) < 0.02
    assert torch.equal(noise(100, 50, device), made[50:150])
    assert abs(float((noise(1 << 16, 1 << 40, device) * made).mean())) < 0.02


def test_values_lie_between_the_middles_of_frames() -> None:
    torch.testing.assert_close(
        between(torch.tensor([[0.0, 4.0]]), 4), torch.tensor([[0, 0, 0.5, 1.5, 2.5, 3.5, 4, 4]])
    )
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert torch.equal(held(values, mask), torch.tensor([[1.0, 2.0, 2.0], [4.0, 5.0, 6.0]]))
    assert held(values, None) is values


# a pitch in channels

WRITING = {"name": "grouped_fsq", "num_codebooks": 3, "levels": [8, 5, 5, 5], "dropout": 0.5}


def test_a_quantizer_of_five_levels_keeps_a_written_pitch() -> None:
    quantizer = build_quantizer(dim=12, **WRITING).eval()
    position = torch.linspace(0, OCTAVES * STEPS, 500)
    latents = torch.randn(1, 12, 500)
    latents[0, 5:8] = pitch_code.written(position).T
    codes = quantizer.encode(latents)
    found, there = pitch_code.read(quantizer.decode(codes)[0, 5:8].T)
    assert bool(there.all())
    step = (pitch_code.HIGHEST - pitch_code.LOWEST) / (pitch_code.STEPS - 1)
    inside = position.clamp(pitch_code.LOWEST, pitch_code.HIGHEST)
    assert float((found - inside).abs().max()) <= step / 2 + 1e-3
    assert len(set(found.tolist())) == pitch_code.STEPS == 124
    _, there = pitch_code.read(quantizer.decode(codes[:, :1])[0, 5:8].T)
    assert not bool(there.any()), "its codebook is left out"


@pytest.mark.parametrize(
    ("quantizer", "channel"),
    [
        ({"name": "vq", "codebook_size": 64}, 5),
        (WRITING, 3),  # across two codebooks, of which one may be left out
        ({**WRITING, "levels": [8, 4, 5, 5]}, 5),
        ({"name": "fsq", "levels": [3] * 12}, 0),
    ],
)
def test_a_quantizer_that_does_not_keep_the_pitch_is_told(quantizer: dict[str, Any], channel: int) -> None:
    with pytest.raises(OptionError, match=rf"pitch_channel is {channel}.*rounds each of them to 5 levels"):
        Codec(sample_rate=RATE, network={**SPEAKING, "pitch_channel": channel}, quantizer=quantizer)


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
WITH_PITCH = {**SPEAKING, "pitch_channel": 5}


OWN = ("voicing", "pitch", "added")  # losses


def codec(network: dict[str, Any]) -> Codec:
    torch.manual_seed(0)
    return Codec(sample_rate=RATE, network=network, quantizer=WRITING).eval()


def test_an_untrained_codec_speaks_at_the_pitch_that_it_heard() -> None:
    made, hz = codec(WITH_PITCH), glide(120, 180)
    made.decoder.pitch.bias.data[:2] = torch.tensor([10.0, 0.0])  # always voiced, nothing added
    made.decoder.pitch.weight.data[:2] = 0.0
    made.decoder.filters.weight.data.zero_()
    tracker = PitchTracker(RATE, HOP)

    def off(num_codebooks: int) -> float:
        codes = made.encode(voice(hz), num_codebooks=num_codebooks)
        return float(octaves_off(tracker(made.decode(codes)).hz[0], hz)[6:-6].median())

    assert off(2) < 0.015
    assert off(1) > 0.05, "the pitch is in the second codebook"


@pytest.mark.parametrize("network", [SPEAKING, WITH_PITCH], ids=["learned", "written"])
def test_neighbours_and_padding_change_nothing(network: dict[str, Any]) -> None:
    made = codec(network)
    made.decoder.pitch.weight.data *= (
        30  # trained ones are decided; here rounding would choose between pitches
    )
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


@pytest.mark.parametrize("network", [SPEAKING, WITH_PITCH], ids=["learned", "written"])
def test_audio_hangs_on_no_codes_beyond_its_reach(network: dict[str, Any]) -> None:
    decoder = codec(network).decoder
    assert decoder.reach.past is None
    for seed in range(6):
        torch.manual_seed(seed)
        latents = torch.randint(-1, 2, (1, 12, 40)).float()
        changed = latents.clone()
        changed[:, :, 20 + decoder.reach.future :] *= -1
        with torch.no_grad():
            before, after = decoder(latents), decoder(changed)
        apart = (before - after)[0, 0].abs()
        assert float(apart[: 20 * 320].max()) < 1e-7
        assert float(apart[20 * 320 :].max()) > 1e-3


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
def test_autocast_does_not_change_the_pitch(autocast: torch.dtype) -> None:
    tracker, wav = PitchTracker(RATE, HOP), 9 * voice(glide(120, 180), harmonics=2)
    expected = tracker(wav)
    with torch.autocast("cpu", autocast):
        found = tracker(wav)
    assert torch.equal(found.position, expected.position)
    assert torch.equal(found.voiced, expected.voiced)


def test_hashes_tell_where_the_pitch_is_written() -> None:
    """Codes of two codecs that differ in nothing else are not each other's."""
    codecs = [codec({**SPEAKING, "pitch_channel": channel}) for channel in (1, 5)]
    codecs[1].load_state_dict({**codecs[0].state_dict(), "encoder.written_at": torch.tensor(5)})
    assert codecs[0].codebooks_sha256 != codecs[1].codebooks_sha256


def test_frames_without_a_written_pitch_leave_their_neighbours_alone() -> None:
    """As codes of a language model may have them."""
    decoder = codec(WITH_PITCH).decoder
    latents = torch.zeros(1, 9, 12)
    latents[..., 5:8] = pitch_code.written(torch.full((1, 9), 100.0)).tanh()
    latents[:, 4, 5:8] = 0
    _, reading = decoder._read(latents, None)
    assert reading is not None
    assert reading.there[0].tolist() == [True] * 4 + [False] + [True] * 4
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
    assert isinstance(decoder, SpeakingDecoder)
    latents, wav = torch.randn(1, 12, 20), voice(glide(120, 180, 0.4))
    told, alone = decoder(latents, None, wav), decoder(latents)
    assert isinstance(told, WithLosses)
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
    torch.testing.assert_close(likeliest(exact), position, atol=0.02, rtol=0)
    written = torch.tensor([[41.3, 90.0, 99.0]])  # a step off, an octave off, unvoiced
    there = torch.ones(1, 3, dtype=torch.bool)
    assert float(added_loss(written, there, Pitch(position, voiced))) == pytest.approx(1.0)
    assert float(added_loss(written, ~there, Pitch(position, voiced))) == 0.0


def test_what_a_codec_speaks_survives_saving(tmp_path) -> None:
    made, wav = codec(WITH_PITCH), voice(glide(200, 150))
    again = load(made.save(tmp_path / "codec"))
    codes = made.encode(wav)
    assert torch.equal(again.encode(wav), codes)
    assert torch.equal(again.decode(codes), made.decode(codes))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"phase": "retrieved", "pitch_channel": 0}, "phase is retrieved, which asks for no pitch"),
        ({"phase": "source", "pitch_channel": 10, "dim": 12}, "with dim 12 it is 0 to 9"),
        ({"phase": "source", "causal": True}, "phase: source hears what comes"),
        ({"phase": "source", "synthesis_hop_length": 300}, "has to divide hop_length"),
        ({"phase": "source", "phase_iterations": 8}, "are for phase: retrieved, and phase is source"),
        ({"phase": "predicted", "training_phase": "retrieved"}, "are for phase: retrieved"),
    ],
)
def test_a_wrong_option_is_told(options: dict[str, Any], says: str) -> None:
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

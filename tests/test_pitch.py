"""Pitch tracking: accuracy, voicing, the Viterbi path, padding and autocast."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from codecvq_free_speech import bundled
from voices import HOP, RATE, glide, octaves_off, voice

from codecvq.networks.voice.correlation import Correlation
from codecvq.networks.voice.grid import grid_size, hz_of
from codecvq.networks.voice.pitch import PitchTracker


@pytest.mark.parametrize(("low", "high"), [(66, 90), (100, 160), (210, 150), (180, 400), (500, 420)])
@pytest.mark.parametrize("sound", ["vowel", "bright", "no fundamental", "noisy"])
def test_pitch_of_a_glide_is_accurate(low: float, high: float, sound: str) -> None:
    hz, generator = glide(low, high), torch.Generator().manual_seed(0)
    made = {
        "vowel": voice(hz),
        "bright": voice(hz, slope=0.2),
        "no fundamental": voice(hz, lowest=2),
        "noisy": voice(hz) + 0.02 * torch.randn(1, 1, len(hz), generator=generator),
    }[sound]
    pitch = PitchTracker(RATE, HOP)(made)
    inside = slice(4, -4)  # frames whose windows contain only the voice
    assert bool(pitch.voiced[0, inside].all())
    off = octaves_off(pitch.hz[0], hz)[inside]
    assert float(off.max()) < 0.03, "about two percent"
    assert float(off.median()) < 0.006


def test_silence_and_noise_have_no_pitch() -> None:
    tracker = PitchTracker(RATE, HOP)
    silent = tracker(torch.zeros(2, 1, RATE))
    assert not bool(silent.voiced.any())
    assert bool(silent.hz.isfinite().all())
    torch.manual_seed(0)
    assert float(tracker(0.1 * torch.randn(1, 1, RATE)).voiced.float().mean()) < 0.05


def test_unvoiced_pitch_is_interpolated_and_constant_at_the_ends() -> None:
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


def test_correlations_of_a_tone_follow_a_cosine() -> None:
    correlation = Correlation(RATE, HOP, 60.0)
    hz = 200.0
    result, sizes = correlation(0.5 * torch.cos(2 * torch.pi * hz * torch.arange(RATE) / RATE)[None])
    expected = torch.cos(2 * torch.pi * hz / hz_of(torch.arange(grid_size()).float()))
    torch.testing.assert_close(result[0, 50], expected, atol=0.05, rtol=0)
    torch.testing.assert_close(sizes[0, 50], torch.tensor(0.5), atol=0.01, rtol=0)


@pytest.mark.parametrize("hop", [HOP, 1000], ids=["long windows", "windows shorter than a hop"])
def test_correlations_of_a_frame_depend_on_no_other_frame(hop: int) -> None:
    correlation = Correlation(RATE, hop, 60.0)
    wav = 0.1 * torch.randn(1, 40 * hop, generator=torch.Generator().manual_seed(0))
    strengths, peaks = correlation(wav)
    assert torch.equal(correlation.peaks(wav), peaks)
    context = correlation.margin
    for first, count in [(3, 1), (3, 2), (17, 20), (39, 1), (0, 1)]:
        padded = torch.nn.functional.pad(wav, (context, context))
        part = padded[:, first * hop : (first + count) * hop + 2 * context]
        own_strengths, own_peaks = correlation(part, context)
        assert torch.equal(own_strengths, strengths[:, first : first + count])
        assert torch.equal(own_peaks, peaks[:, first : first + count])


def test_padding_does_not_change_the_pitch() -> None:
    generator = torch.Generator().manual_seed(0)
    tracker, wav = PitchTracker(RATE, HOP), torch.randn(2, 1, RATE, generator=generator)
    wav[0, :, : 60 * HOP] = voice(glide(130, 170, 0.6))
    wav[1] = voice(glide(230, 250))
    mask = torch.arange(100) < torch.tensor([[60], [100]])
    batched = tracker(wav, mask)
    alone, other = tracker(wav[:1, :, : 60 * HOP]), tracker(wav[1:])
    torch.testing.assert_close(batched.position[:1, :60], alone.position)
    assert torch.equal(batched.voiced[:1, :60], alone.voiced)
    assert not bool(batched.voiced[0, 60:].any())
    torch.testing.assert_close(batched.position[1:], other.position)


@pytest.mark.parametrize("hop", [160, 240, 320, 640])
def test_bundled_speakers_have_plausible_pitch_at_every_hop(hop: int) -> None:
    """The corpus has three female speakers. Each hop length gives the same range."""
    tracker, medians = PitchTracker(RATE, hop), {}
    for clip in list(bundled.clips())[::12]:
        samples = clip.read(RATE)
        pitch = tracker(torch.from_numpy(samples[: len(samples) // hop * hop])[None, None])
        assert 0.3 < float(pitch.voiced.float().mean()) < 0.98
        medians.setdefault(clip.speaker, []).append(float(pitch.hz[pitch.voiced].median()))
    for speaker, hz in medians.items():
        assert 160 < np.median(hz) < 260, speaker


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
def test_autocast_does_not_change_the_pitch(autocast: torch.dtype) -> None:
    tracker, wav = PitchTracker(RATE, HOP), 9 * voice(glide(120, 180), harmonics=2)
    expected = tracker(wav)
    with torch.autocast("cpu", autocast):
        result = tracker(wav)
    assert torch.equal(result.position, expected.position)
    assert torch.equal(result.voiced, expected.voiced)

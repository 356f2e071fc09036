"""The spread loss compares the local variation of log magnitudes, not their levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codecvq.data.corpus import open_corpus
from codecvq.losses.spread import BAND, EPSILON, FLOOR, FRAMES, FREQUENCIES, SpreadLoss

RATE = 16000


def noise(seed: int, samples: int = 8000) -> torch.Tensor:
    return 0.1 * torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(seed))


def reference_distance(decoded: np.ndarray, reference: np.ndarray) -> float:
    """The definition in float64, computed cell by cell."""
    window = np.hanning(641)[:-1]
    window = window / window.sum()

    def powers(wav: np.ndarray) -> np.ndarray:
        padded = np.pad(wav, 320)
        starts = range(0, len(padded) - 639, 160)
        return np.array([np.abs(np.fft.rfft(padded[s : s + 640] * window)) ** 2 for s in starts])

    def deviations(values: np.ndarray, near: int) -> np.ndarray:
        half = near // 2
        return values - [values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))]

    frames = powers(reference).sum(axis=1)
    speech = frames > frames.max() * 1e-4
    spreads = []
    for wav in (decoded, reference):
        levels = 0.5 * np.log(powers(wav) + FLOOR)
        over_f = np.array([deviations(frame, FREQUENCIES) for frame in levels]) ** 2
        over_t = np.array([deviations(row, FRAMES) for row in levels.T]).T ** 2
        bands = [slice(b, b + BAND) for b in range(0, 320, BAND)]
        spreads.append([[cells[speech][:, band].mean() for band in bands] for cells in (over_f, over_t)])
    ours, theirs = np.log(np.array(spreads) + EPSILON)
    return float(0.5 * np.abs(ours - theirs).mean())


def test_spread_loss_equals_its_definition() -> None:
    clip = open_corpus("prompts").clips[0].read(RATE)[4000:12000]
    decoded = clip + 0.02 * np.random.default_rng(0).normal(size=len(clip))
    distance = SpreadLoss(RATE).distance(
        torch.from_numpy(decoded).float()[None, None], torch.from_numpy(clip)[None, None]
    )
    expected = reference_distance(decoded, clip.astype(np.float64))
    assert float(distance) == pytest.approx(expected, rel=1e-3)


def test_spread_of_noise_differs_from_the_spread_of_a_tone() -> None:
    loss = SpreadLoss(RATE)
    one, other, louder = noise(1), noise(2), 3 * noise(1)
    tone = 0.1 * torch.sin(2 * torch.pi * 1000 * torch.arange(8000) / RATE)[None, None]
    assert float(loss.distance(one, one)) == 0
    assert float(loss.distance(louder, one)) < 0.01, "the loss does not depend on levels"
    assert float(loss.distance(other, one)) < 0.3
    assert float(loss.distance(tone, one)) > 2 * float(loss.distance(other, one))


def test_the_gradient_increases_the_spread_of_smooth_magnitudes() -> None:
    loss, wav = SpreadLoss(RATE), noise(3)
    window = torch.hann_window(640)
    spectra = torch.stft(wav[0], 640, 160, window=window, return_complex=True)
    flat = torch.polar(spectra.abs().pow(0.3) * spectra.abs().mean().pow(0.7), spectra.angle())
    smooth = torch.istft(flat, 640, 160, window=window, length=8000)[None].requires_grad_()
    before = loss.distance(smooth, wav)
    before.backward()
    assert smooth.grad is not None
    assert bool(smooth.grad.isfinite().all())
    step = smooth.detach() - 1e-3 * smooth.grad / smooth.grad.abs().max()
    assert float(loss.distance(step, wav)) < float(before.detach())


def test_frames_without_speech_have_no_effect_and_silence_costs_nothing() -> None:
    loss = SpreadLoss(RATE)
    speech = torch.cat([noise(1), torch.zeros(1, 1, 8000)], dim=2)
    hum = torch.cat([noise(1), 1e-4 * noise(2)], dim=2)
    assert float(loss.distance(hum, speech)) < 0.1 * float(loss.distance(noise(2, 16000) + 3 * hum, speech))
    silence = torch.zeros(1, 1, 8000, requires_grad=True)
    distance = loss.distance(silence, torch.zeros(1, 1, 8000))
    assert float(distance.detach()) == 0
    distance.backward()
    assert silence.grad is not None
    assert bool(silence.grad.isfinite().all())

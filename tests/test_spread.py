"""The loss of spread: how much log magnitudes vary, whatever they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codecvq.data.corpus import open_corpus
from codecvq.losses.spread import BAND, EPSILON, FLOOR, FRAMES, FREQUENCIES, SpreadLoss

RATE = 16000


def noise(seed: int, samples: int = 8000) -> torch.Tensor:
    return 0.1 * torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(seed))


def by_hand(decoded: np.ndarray, reference: np.ndarray) -> float:
    """The definition, cell by cell, in float64."""
    window = np.hanning(641)[:-1]
    window = window / window.sum()

    def powers(wav: np.ndarray) -> np.ndarray:
        padded = np.pad(wav, 320)
        starts = range(0, len(padded) - 639, 160)
        return np.array([np.abs(np.fft.rfft(padded[s : s + 640] * window)) ** 2 for s in starts])

    def apart(values: np.ndarray, near: int) -> np.ndarray:
        half = near // 2
        return values - [values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))]

    frames = powers(reference).sum(axis=1)
    speech = frames > frames.max() * 1e-4
    spreads = []
    for wav in (decoded, reference):
        levels = 0.5 * np.log(powers(wav) + FLOOR)
        over_f = np.array([apart(frame, FREQUENCIES) for frame in levels]) ** 2
        over_t = np.array([apart(row, FRAMES) for row in levels.T]).T ** 2
        bands = [slice(b, b + BAND) for b in range(0, 320, BAND)]
        spreads.append([[cells[speech][:, band].mean() for band in bands] for cells in (over_f, over_t)])
    ours, theirs = np.log(np.array(spreads) + EPSILON)
    return float(0.5 * np.abs(ours - theirs).mean())


def test_it_is_its_definition() -> None:
    clip = open_corpus("prompts").clips[0].read(RATE)[4000:12000]
    decoded = clip + 0.02 * np.random.default_rng(0).normal(size=len(clip))
    found = SpreadLoss(RATE).distance(
        torch.from_numpy(decoded).float()[None, None], torch.from_numpy(clip)[None, None]
    )
    assert float(found) == pytest.approx(by_hand(decoded, clip.astype(np.float64)), rel=1e-3)


def test_noise_has_the_spread_of_other_noise_and_a_tone_has_not() -> None:
    loss = SpreadLoss(RATE)
    one, other, louder = noise(1), noise(2), 3 * noise(1)
    tone = 0.1 * torch.sin(2 * torch.pi * 1000 * torch.arange(8000) / RATE)[None, None]
    assert float(loss.distance(one, one)) == 0
    assert float(loss.distance(louder, one)) < 0.01, "levels do not count"
    assert float(loss.distance(other, one)) < 0.3
    assert float(loss.distance(tone, one)) > 2 * float(loss.distance(other, one))


def test_smoothed_magnitudes_cost_and_their_gradient_roughens_them() -> None:
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


def test_what_is_not_speech_does_not_count_and_silence_costs_nothing() -> None:
    loss = SpreadLoss(RATE)
    speech = torch.cat([noise(1), torch.zeros(1, 1, 8000)], dim=2)
    hum = torch.cat([noise(1), 1e-4 * noise(2)], dim=2)
    assert float(loss.distance(hum, speech)) < 0.1 * float(loss.distance(noise(2, 16000) + 3 * hum, speech))
    silence = torch.zeros(1, 1, 8000, requires_grad=True)
    found = loss.distance(silence, torch.zeros(1, 1, 8000))
    assert float(found.detach()) == 0
    found.backward()
    assert silence.grad is not None
    assert bool(silence.grad.isfinite().all())

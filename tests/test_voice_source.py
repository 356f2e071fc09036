"""Pulses, noise and interpolation between frames against their definitions."""

from __future__ import annotations

import pytest
import torch
from voices import HOP, RATE

from codecvq.networks.voice.source import hold_last, interpolate, noise, pulses


def test_pulses_are_a_sum_of_cosines() -> None:
    hz = torch.tensor([[100.0, 120.0, 250.0, 180.0, 90.0]])
    samples = pulses(hz, HOP, RATE)
    rates = interpolate(hz.double().log(), HOP).exp() / RATE
    turns = rates.cumsum(dim=1)
    num_harmonics = (0.5 / rates.float()).floor()
    expected = torch.zeros_like(turns)
    for n in range(1, int(num_harmonics.max()) + 1):
        expected += torch.where(n <= num_harmonics, (2 * torch.pi * n * turns).cos(), 0.0)
    expected /= (num_harmonics.double() / 2).sqrt()
    assert samples.shape == (1, 5 * HOP)
    torch.testing.assert_close(samples.double(), expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("hz", [61.0, 123.4, 390.0])
def test_pulses_have_the_given_period_and_unit_power(hz: float) -> None:
    samples = pulses(torch.full((1, 200), hz), HOP, RATE)[0]
    assert float(samples.square().mean()) == pytest.approx(1.0, rel=0.05)
    spectrum = torch.fft.rfft(samples * torch.hann_window(len(samples))).abs()
    peaks = spectrum > 0.3 * spectrum.max()
    multiples = peaks.nonzero().flatten() * RATE / len(samples) / hz
    assert float((multiples - multiples.round()).abs().max()) < 0.04, "peaks are at multiples of the pitch"
    assert len(set(multiples.round().int().tolist())) == int(RATE / 2 / hz)


def test_noise_is_white_and_continues_from_its_offset() -> None:
    device = torch.device("cpu")
    samples = noise(1 << 16, 0, device)
    assert float(samples.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(samples.square().mean()) == pytest.approx(1.0, abs=0.02)
    for lag in (1, 2, 3, 7, HOP, 2 * HOP):
        assert abs(float((samples[lag:] * samples[:-lag]).mean())) < 0.02
    assert torch.equal(noise(100, 50, device), samples[50:150])
    assert abs(float((noise(1 << 16, 1 << 40, device) * samples).mean())) < 0.02


def test_interpolation_is_linear_between_frame_centers() -> None:
    torch.testing.assert_close(
        interpolate(torch.tensor([[0.0, 4.0]]), 4), torch.tensor([[0, 0, 0.5, 1.5, 2.5, 3.5, 4, 4]])
    )
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert torch.equal(hold_last(values, mask), torch.tensor([[1.0, 2.0, 2.0], [4.0, 5.0, 6.0]]))
    assert hold_last(values, None) is values


def test_the_precision_of_interpolation_does_not_depend_on_the_length() -> None:
    """In float32, positions of samples after minutes have fractions of few bits."""
    values = torch.rand(1, 60_000, generator=torch.Generator().manual_seed(0))
    end = interpolate(values[:, -10:], HOP)[:, 2 * HOP :]
    assert torch.equal(interpolate(values, HOP)[:, -8 * HOP :], end)

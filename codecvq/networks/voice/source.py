"""The source of speech: pulses at the fundamental frequency in voiced frames, noise in unvoiced ones.

The vocal tract filters this source. Its phases are consistent with each other like those of speech. A network
of some million weights cannot generate such phases, and low bit rates cannot code them. They differ from the
phases of the recording only by the start of voicing, which is inaudible. Pulses depend only on the pitch of
their batch item, and noise only on the position in time. Both are deterministic and independent of padding.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pulses(hz: Tensor, hop_length: int, sample_rate: int) -> Tensor:
    """Return one pulse per period, `[B, T * H]`, for frequencies `[B, T]` in Hz.

    The logarithm of the frequency is interpolated linearly between the middles of frames. The signal is the
    sum of all harmonics below half the sample rate, with equal amplitudes and a total power of 1.
    """
    rates = pulse_rates(hz, hop_length, sample_rate)
    return pulses_at(rates.cumsum(dim=1), rates.float())


def pulse_rates(hz: Tensor, hop_length: int, sample_rate: int) -> Tensor:
    """Return the cycles per sample of `pulses`, float64 `[B, T * H]`, for frequencies `[B, T]` in Hz.

    In float32, the last bit of logarithms depends on the number of frames, and a stream has another number.
    """
    return interpolate(hz.double().log(), hop_length).exp() / sample_rate


def pulses_at(cycles: Tensor, rates: Tensor) -> Tensor:
    """Return pulses at integer numbers of cycles.

    Args:
        cycles: Number of cycles since the start, float64 of any shape.
        rates: Cycles per sample, which give the number of harmonics, of the same shape.
    """
    phase = (cycles - cycles.round()).float()  # -1/2 … 1/2
    harmonics = (0.5 / rates).floor().clamp(min=1)
    # Σ cos(2πka), k = 1 … K, is (sin((2K + 1)πa) / sin(πa) - 1) / 2
    denominator = torch.sin(torch.pi * phase)
    at_peak = denominator.abs() < 1e-5
    ratio = torch.sin((2 * harmonics + 1) * torch.pi * phase) / torch.where(at_peak, 1.0, denominator)
    return (torch.where(at_peak, 2 * harmonics + 1, ratio) - 1) / (2 * harmonics).sqrt()


def noise(num_samples: int, start: Tensor | int, device: torch.device) -> Tensor:
    """Return white noise of power 1, `[S]`: samples from `start` on of an infinite, fixed series."""
    number = start + torch.arange(num_samples, device=device)
    for factor in (-7046029254386353131, -4658895280553007687):  # mix all bits, like splitmix64
        number = (number + 1442695040888963407) * factor
        number = number ^ ((number >> 29) & 0x7FFFFFFFF)
    return ((number >> 40) & 0xFFFFFF).float() * (3**0.5 / 2**23) - 3**0.5


def interpolate(values: Tensor, hop_length: int) -> Tensor:
    """Interpolate linearly between values `[B, T]` at the middles of frames: `[B, T * H]`.

    The result is constant before the first and after the last middle. Its precision does not depend on T,
    unlike that of `torch.nn.functional.interpolate`, which computes positions in float32.
    """
    offsets = (torch.arange(hop_length, dtype=torch.float64, device=values.device) + 0.5) / hop_length - 0.5
    before = torch.cat([values[:, :1], values[:, :-1]], dim=1)
    after = torch.cat([values[:, 1:], values[:, -1:]], dim=1)
    halves, half = [], hop_length // 2
    for neighbor, share in ((before, -offsets[:half]), (after, offsets[half:])):
        share = share.to(values.dtype)
        halves.append((1 - share) * values[:, :, None] + share * neighbor[:, :, None])
    return torch.cat(halves, dim=2).flatten(1)


def hold_last(values: Tensor, mask: Tensor | None) -> Tensor:
    """Repeat the last valid value at positions where the mask `[B, T]` is False: values `[B, T]` -> `[B, T]`.

    Before the first valid value, it repeats the value at position 0.
    """
    if mask is None:
        return values
    frames = torch.arange(values.shape[1], device=values.device)
    return values.gather(1, torch.where(mask, frames, 0).cummax(dim=1).values)

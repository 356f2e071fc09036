"""The source of speech: pulses at the fundamental frequency where it is voiced, noise where it is not.

What a vocal tract filters. Its phases fit each other as those of speech do, which no network of some million
weights makes up and no few bits hold; of speech they differ by what the ear does not hear, when the voice
began. Both are the same each time, for each item of a batch, and whatever is behind the end.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pulses(hz: Tensor, hop_length: int, sample_rate: int) -> Tensor:
    """A pulse a period, `[B, T * H]`, for a frequency a frame `[B, T]`, between whose middles its logarithm
    is a line: all harmonics below half the sample rate, with one amplitude, their sum of power 1.
    """
    rates = interpolate(hz.log(), hop_length).exp() / sample_rate  # cycles a sample
    cycles = rates.double().cumsum(dim=1)
    phase = (cycles - cycles.round()).float()  # -1/2 … 1/2
    harmonics = (0.5 / rates).floor().clamp(min=1)
    # Σ cos(2πka), k = 1 … K, is (sin((2K + 1)πa) / sin(πa) - 1) / 2
    denominator = torch.sin(torch.pi * phase)
    at_peak = denominator.abs() < 1e-5
    ratio = torch.sin((2 * harmonics + 1) * torch.pi * phase) / torch.where(at_peak, 1.0, denominator)
    return (torch.where(at_peak, 2 * harmonics + 1, ratio) - 1) / (2 * harmonics).sqrt()


def noise(num_samples: int, start: Tensor | int, device: torch.device) -> Tensor:
    """White noise of power 1, `[S]`: samples `start` … of a series without an end."""
    number = start + torch.arange(num_samples, device=device)
    for factor in (-7046029254386353131, -4658895280553007687):  # mixes all bits, as splitmix64 does
        number = (number + 1442695040888963407) * factor
        number = number ^ ((number >> 29) & 0x7FFFFFFFF)
    return ((number >> 40) & 0xFFFFFF).float() * (3**0.5 / 2**23) - 3**0.5


def interpolate(values: Tensor, hop_length: int) -> Tensor:
    """Values a sample `[B, T * H]` on lines between those in the middle of frames `[B, T]`; the first and
    the last hold to the ends.
    """
    return F.interpolate(values[:, None], scale_factor=hop_length, mode="linear", align_corners=False)[:, 0]


def hold_last(values: Tensor, mask: Tensor | None) -> Tensor:
    """Values `[B, T]` of which each goes on where the mask `[B, T]` leaves out what follows; before the first
    that it has, the first of all.
    """
    if mask is None:
        return values
    frames = torch.arange(values.shape[1], device=values.device)
    return values.gather(1, torch.where(mask, frames, 0).cummax(dim=1).values)

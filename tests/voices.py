"""Synthetic voices with known pitch."""

from __future__ import annotations

import math

import torch

RATE, HOP = 16000, 160


def voice(hz: torch.Tensor, harmonics: int = 12, slope: float = 1.0, lowest: int = 1) -> torch.Tensor:
    """Audio `[1, 1, S]` of decaying harmonics. `hz [S]` is the fundamental frequency at each sample."""
    turns = 2 * torch.pi * (hz.double() / RATE).cumsum(dim=0)
    tones = [(n * turns).cos() / n**slope for n in range(lowest, harmonics + 1)]
    return 0.1 * torch.stack(tones).sum(dim=0).float()[None, None]


def glide(low: float, high: float, seconds: float = 1.0) -> torch.Tensor:
    return torch.exp(torch.linspace(math.log(low), math.log(high), round(seconds * RATE)))


def octaves_off(found: torch.Tensor, hz: torch.Tensor) -> torch.Tensor:
    """Absolute error in octaves of one frequency per frame. `hz` has one per sample."""
    return (found / hz[HOP // 2 :: HOP]).log2().abs()

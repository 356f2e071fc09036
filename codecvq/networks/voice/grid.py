"""The logarithmic grid of frequencies on which the pitch is tracked. G is the number of its frequencies."""

from __future__ import annotations

import torch
from torch import Tensor

LOWEST_HZ, OCTAVES, STEPS = 60.0, 3.25, 48  # up to 570 Hz, STEPS per octave


def grid_size() -> int:
    """Return the number of frequencies of the grid, G."""
    return round(OCTAVES * STEPS) + 1


def hz_of(position: Tensor) -> Tensor:
    """Return the frequency at a position of the grid."""
    return LOWEST_HZ * torch.exp2(position / STEPS)

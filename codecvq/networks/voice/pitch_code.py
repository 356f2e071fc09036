"""A pitch in three channels of five levels: 120 steps of 1.6 %, from 65 to 428 Hz.

So that a quantizer which rounds channels, as fsq, keeps it exactly. Two channels are the digits, in the
number system of base 5, of one of 24 cells, each of five steps; (2, 2), which is what channels at 0 stand
for, is no cell, so that where their codebook is left out there is no pitch. The third is the step in its
cell, and may be in a codebook of its own: where that is left out it is the middle one, and the pitch is right
to 4 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codecvq.errors import OptionError
from codecvq.quantizer import Quantizer

CHANNELS, BASE = 3, 5
LOWEST, HIGHEST = 6.0, 136.0  # positions on the grid of `codecvq.networks.voice.pitch`
NO_PITCH = BASE**2 // 2  # the cell of (2, 2)
NUM_VALUES = (BASE**2 - 1) * BASE


def encode(position: Tensor) -> Tensor:
    """Channels `[…, 3]`, before tanh, of positions `[…]`; those beyond the ends are at the ends."""
    share = ((position - LOWEST) / (HIGHEST - LOWEST)).clamp(0, 1)
    number = (share * (NUM_VALUES - 1)).round().long()
    cell = number // BASE
    cell = cell + (cell >= NO_PITCH)
    digits = torch.stack([cell // BASE, cell % BASE, number % BASE], dim=-1)
    return torch.atanh(0.995 * (digits * (2 / (BASE - 1)) - 1))


def decode(channels: Tensor) -> tuple[Tensor, Tensor]:
    """Positions `[…]` of channels `[…, 3]` within [-1, 1], and where there is one."""
    high, low, step = ((channels + 1) * ((BASE - 1) / 2)).round().clamp(0, BASE - 1).unbind(dim=-1)
    cell = high * BASE + low
    number = (cell - (cell > NO_PITCH).to(cell.dtype)) * BASE + step
    return LOWEST + number / (NUM_VALUES - 1) * (HIGHEST - LOWEST), cell != NO_PITCH


def check_preserved(quantizer: Quantizer, channels: Sequence[int]) -> None:
    """Raises OptionError for a quantizer that does not keep what is written in these three channels, or of
    which a part may be left out and what is left is another pitch.
    """
    places, position = list(channels), torch.linspace(LOWEST, HIGHEST, NUM_VALUES)
    latents = torch.zeros(1, quantizer.dim, NUM_VALUES)
    latents[0, places] = encode(position).T
    codes = quantizer.encode(latents)
    tolerance = (BASE // 2) * (HIGHEST - LOWEST) / (NUM_VALUES - 1)
    for depth in range(1 if quantizer.prefix_decodable else len(codes[0]), len(codes[0]) + 1):
        decoded, present = decode(quantizer.decode(codes[:, :depth])[0, places].T)
        error = float((decoded - position).abs().max()) if bool(present.all()) else float("inf")
        complete = depth == len(codes[0])
        if error > (0 if complete else tolerance) + 1e-3 and (complete or bool(present.any())):
            raise OptionError(
                f"spectral: pitch_channels are {places}, but the quantizer does not keep what is written "
                f"there. Take one that rounds each of them to {BASE} levels, the first two in one codebook, "
                "as grouped_fsq with levels [8, 5, 5, 5] and pitch_channels [5, 6, 7] or [5, 6, 13], or "
                "leave pitch_channels out: then the pitch is learned."
            )

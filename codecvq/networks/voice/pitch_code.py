"""Code of a pitch in three channels of five levels: 120 steps of 1.6 %, from 65 to 428 Hz.

A quantizer that rounds channels, such as fsq, preserves it exactly. Two channels are the base-5 digits of one
of 24 cells of five steps each. The digits (2, 2) are no cell but mean that there is no pitch: channels of a
dropped codebook are 0, which is digit 2. The third channel is the step within the cell and may be in another
codebook. If that is dropped, the middle step is used, and the pitch is accurate to 4 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codecvq.errors import OptionError
from codecvq.quantizer import Quantizer

CHANNELS, BASE = 3, 5
LOWEST, HIGHEST = 6.0, 136.0  # positions on the grid of `codecvq.networks.voice.pitch`
NO_PITCH = BASE**2 // 2  # cell number of (2, 2)
NUM_VALUES = (BASE**2 - 1) * BASE


def encode(position: Tensor) -> Tensor:
    """Return the values `[…, 3]` of the channels, before tanh, for positions `[…]`. Clamps positions."""
    return channels_of(number_of(position))


def number_of(position: Tensor) -> Tensor:
    """Return the numbers of the steps, int64 `[…]` from 0 to 119, for positions `[…]`. Clamps positions."""
    share = ((position - LOWEST) / (HIGHEST - LOWEST)).clamp(0, 1)
    return (share * (NUM_VALUES - 1)).round().long()


def channels_of(number: Tensor) -> Tensor:
    """Return the values `[…, 3]` of the channels, before tanh, for numbers of steps, int64 `[…]`."""
    cell = number // BASE
    cell = cell + (cell >= NO_PITCH)
    digits = torch.stack([cell // BASE, cell % BASE, number % BASE], dim=-1)
    return torch.atanh(0.995 * (digits * (2 / (BASE - 1)) - 1))


def decode(channels: Tensor) -> tuple[Tensor, Tensor]:
    """Return positions `[…]` of channels `[…, 3]` within [-1, 1], and whether a pitch is present."""
    high, low, step = ((channels + 1) * ((BASE - 1) / 2)).round().clamp(0, BASE - 1).unbind(dim=-1)
    cell = high * BASE + low
    number = (cell - (cell > NO_PITCH).to(cell.dtype)) * BASE + step
    return LOWEST + number / (NUM_VALUES - 1) * (HIGHEST - LOWEST), cell != NO_PITCH


def check_preserved(quantizer: Quantizer, channels: Sequence[int]) -> None:
    """Raise OptionError if the quantizer does not preserve the pitch code in these three channels.

    With fewer codebooks, the pitch must be absent or close to the full one.
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
                f"spectral: pitch_channels are {places}, but the quantizer does not preserve their values. "
                f"Use one that rounds each of them to {BASE} levels, the first two in one codebook, "
                "such as grouped_fsq with levels [8, 5, 5, 5] and pitch_channels [5, 6, 7] or [5, 6, 13]. Or "
                "remove pitch_channels, so that the pitch is learned."
            )

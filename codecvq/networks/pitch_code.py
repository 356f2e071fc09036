"""A pitch in three channels of five levels: 124 steps of 1.5 %, from 65 to 428 Hz.

So that a quantizer which rounds channels, as fsq, keeps it exactly. The channels are the digits of the step's
number in the number system of base 5; (2, 2, 2), which is what channels at 0 stand for, is no step, so that
where a codebook is left out there is no pitch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codecvq.errors import OptionError
from codecvq.quantizer import Quantizer

CHANNELS, BASE = 3, 5
LOWEST, HIGHEST = 6.0, 136.0  # positions on the grid of `codecvq.networks.pitch`
STEPS = BASE**CHANNELS - 1
NONE = STEPS // 2  # the number of (2, 2, 2)
POWERS = tuple(BASE**k for k in reversed(range(CHANNELS)))


def written(position: Tensor) -> Tensor:
    """Channels `[…, 3]`, before tanh, of positions `[…]`; those beyond the ends are at the ends."""
    share = ((position - LOWEST) / (HIGHEST - LOWEST)).clamp(0, 1)
    number = (share * (STEPS - 1)).round().long()
    number = number + (number >= NONE)
    digits = torch.stack([number // power % BASE for power in POWERS], dim=-1)
    return torch.atanh(0.995 * (digits * (2 / (BASE - 1)) - 1))


def read(channels: Tensor) -> tuple[Tensor, Tensor]:
    """Positions `[…]` of channels `[…, 3]` within [-1, 1], and where there is one."""
    digits = ((channels + 1) * ((BASE - 1) / 2)).round().clamp(0, BASE - 1)
    number = (digits * digits.new_tensor(POWERS)).sum(dim=-1)
    share = (number - (number > NONE).to(number.dtype)) / (STEPS - 1)
    return LOWEST + share * (HIGHEST - LOWEST), number != NONE


def check_kept(quantizer: Quantizer, channel: int) -> None:
    """Raises OptionError for a quantizer that does not keep what is written in three channels from `channel`
    on, or of which a part may be left out.
    """
    position = torch.linspace(LOWEST, HIGHEST, STEPS)
    latents = torch.zeros(1, quantizer.dim, STEPS)
    channels = slice(channel, channel + CHANNELS)
    latents[0, channels] = written(position).T
    codes = quantizer.encode(latents)
    for depth in range(1 if quantizer.prefix_decodable else len(codes[0]), len(codes[0]) + 1):
        found, there = read(quantizer.decode(codes[:, :depth])[0, channels].T)
        kept = bool(there.all()) and torch.allclose(found, position, atol=1e-3)
        if not kept and (depth == len(codes[0]) or bool(there.any())):
            raise OptionError(
                f"spectral: pitch_channel is {channel}, but the quantizer does not keep what is written in "
                f"channels {channel} to {channel + CHANNELS - 1}, all of it in one codebook. Take one that "
                f"rounds each of them to {BASE} levels, as grouped_fsq with levels [8, 5, 5, 5] and "
                "pitch_channel 5, or leave pitch_channel out: then the pitch is learned."
            )

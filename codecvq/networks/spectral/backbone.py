"""ConvNeXt blocks over frames, without normalization over time.

Letters in shapes: F features of a frame, X hidden channels.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.api.reach import Reach
from codecvq.errors import OptionError
from codecvq.networks.interface import zero_padding
from codecvq.networks.presets import MAX_DEPTH, MAX_WIDTH
from codecvq.networks.spectral.parts import FrameNetwork

KERNEL = 7  # frames


class FrameConv(nn.Conv1d):
    """Convolution over seven frames of `[B, T, X]`.

    The seven frames are centered on each frame or, if `causal`, end with it.
    """

    def __init__(self, width_in: int, width_out: int, causal: bool, groups: int = 1) -> None:
        super().__init__(width_in, width_out, KERNEL, padding=0 if causal else KERNEL // 2, groups=groups)
        self.causal = causal

    def forward(self, hidden: Tensor) -> Tensor:
        """Convolve frames: `[B, T, X]` -> `[B, T, Y]`."""
        channels_first = rearrange(hidden, "b t x -> b x t")
        if self.causal:
            channels_first = F.pad(channels_first, (KERNEL - 1, 0))
        return rearrange(super().forward(channels_first), "b x t -> b t x")


class ConvNeXtBlock(nn.Module):
    """ConvNeXt block: depthwise convolution over 7 frames, LayerNorm, MLP, learned scale, skip connection.

    LayerNorm is per frame, and the MLP has three times the width.
    """

    def __init__(self, width: int, scale: float, causal: bool) -> None:
        super().__init__()
        self.depthwise = FrameConv(width, width, causal, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 3 * width)
        self.narrow = nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Apply the block: `[B, T, X]` -> `[B, T, X]`."""
        mixed = self.depthwise(zero_padding(hidden, mask))
        return hidden + self.scale * self.narrow(F.gelu(self.widen(self.norm(mixed))))


def make_convnext(*, features: int, causal: bool, width: int = 256, blocks: int = 4) -> Backbone:
    """Build a backbone of `blocks` ConvNeXt blocks with `width` channels. Raises OptionError."""
    for name, value, most in (("width", width, MAX_WIDTH), ("blocks", blocks, MAX_DEPTH)):
        if not 1 <= value <= most:
            raise OptionError(f"convnext: {name} is {value}; needed is a whole number from 1 to {most}.")
    return Backbone(features, width, blocks, causal)


class Backbone(FrameNetwork):
    """Convolution, ConvNeXt blocks and LayerNorm: `[B, T, F]` -> `[B, T, X]`."""

    def __init__(self, features: int, width: int, blocks: int, causal: bool) -> None:
        super().__init__()
        self.width = width
        self.embed = FrameConv(features, width, causal)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(ConvNeXtBlock(width, 1 / blocks, causal) for _ in range(blocks))
        self.norm_out = nn.LayerNorm(width)
        frames = (blocks + 1) * (KERNEL - 1)
        self.reach = Reach(frames, 0) if causal else Reach(frames // 2, frames // 2)  # in frames

    def forward(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Apply the backbone: `[B, T, F]`, mask `[B, T]` -> `[B, T, X]`."""
        hidden = self.norm_in(self.embed(zero_padding(features, mask)))
        for block in self.blocks:
            hidden = block(hidden, mask)
        return self.norm_out(hidden)

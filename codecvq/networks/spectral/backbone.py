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
from codecvq.streaming import StreamingModule

KERNEL = 7  # frames


class FrameConv(nn.Conv1d):
    """Convolution over seven frames of `[B, T, X]`.

    The seven frames are centered on each frame or, if `causal`, end with it.
    """

    def __init__(self, width_in: int, width_out: int, causal: bool, groups: int = 1) -> None:
        super().__init__(width_in, width_out, KERNEL, groups=groups)
        self.causal = causal

    def forward(self, hidden: Tensor) -> Tensor:
        """Convolve frames: `[B, T, X]` -> `[B, T, Y]`."""
        before = KERNEL - 1 if self.causal else KERNEL // 2
        return self.valid(F.pad(hidden, (0, 0, before, KERNEL - 1 - before)))

    def valid(self, hidden: Tensor) -> Tensor:
        """Convolve without padding: `[B, T + 6, X]` -> `[B, T, Y]`.

        A dense convolution is one matrix product over the seven frames, whose rows do not depend on T. Other
        algorithms would give other roundings for blocks of a stream.
        """
        if self.groups == 1:
            return F.linear(hidden.unfold(1, KERNEL, 1).flatten(2), self.weight.flatten(1), self.bias)
        return rearrange(super().forward(rearrange(hidden, "b t x -> b x t")), "b x t -> b t x")


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
        return self.mix(hidden, self.depthwise(zero_padding(hidden, mask)))

    def mix(self, hidden: Tensor, mixed: Tensor) -> Tensor:
        """Apply the layers after the convolution, whose output is `mixed`: `[B, T, X]` each."""
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

    def as_stream(self) -> StreamingModule | None:
        """Return a stream with exact state if the backbone is causal, else None."""
        from codecvq.networks.spectral.streaming import BackboneStream

        return BackboneStream(self) if self.embed.causal else None

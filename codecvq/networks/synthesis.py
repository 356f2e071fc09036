"""What decoders share whose spectra are closer than the codec's frames. Letters: X channels inside."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

from codecvq.networks.backbone import Backbone
from codecvq.networks.framing import Framing

SPREAD = 96  # features of a synthesis frame, spread from those of a codec frame


class Synthesis(nn.Module):
    """Features a codec frame to channels a synthesis frame, of which there are `times` as many."""

    def __init__(self, framing: Framing, times: int, features: int, width: int, blocks: int) -> None:
        super().__init__()
        self.framing, self.times = framing, times
        self.spread = nn.Linear(features, times * SPREAD)
        self.backbone = Backbone(SPREAD, width, blocks, causal=False)

    def hidden(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """`[B, T, F]`, mask `[B, T * times]` -> `[B, T * times, X]`."""
        return self.backbone(rearrange(self.spread(features), "b t (n x) -> b (t n) x", n=self.times), mask)

    def finer(self, mask: Tensor | None) -> Tensor | None:
        """A mask of codec frames `[B, T]` as one of synthesis frames."""
        return None if mask is None else mask.repeat_interleave(self.times, dim=1)

    def frames(self, synthesis_frames: int) -> int:
        """Codec frames that so many synthesis frames reach into."""
        return -(-synthesis_frames // self.times)

"""What decoders share whose spectra are closer than the codec's frames. Letters: X channels inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from einops import rearrange
from torch import Tensor, nn

from codecvq.errors import OptionError
from codecvq.networks.spectral.framing import LONGEST_WINDOW, Framing
from codecvq.networks.spectral.parts import FrameNetwork

SPREAD = 96  # features of a synthesis frame, spread from those of a codec frame

#: the number of features of a frame -> a backbone for them
MakeBackbone = Callable[[int], FrameNetwork]


@dataclass(frozen=True)
class SynthesisFraming:
    """How often spectra are made, and on what windows."""

    framing: Framing
    upsampling: int  # synthesis frames in a frame of the codec

    @classmethod
    def from_options(
        cls, head: str, hop_length: int, causal: bool, step: int | None, window_length: int | None
    ) -> SynthesisFraming:
        """Of options of the head: every `step` samples, by default every hop, on windows of `window_length`,
        by default four steps. Raises OptionError.
        """
        step = hop_length if step is None else step
        if causal:
            raise OptionError(
                f"spectral: phase: {head} needs future frames, and the network is causal. Set phase: "
                "predicted."
            )
        if step < 1 or hop_length % step:
            raise OptionError(
                f"spectral: synthesis_hop_length is {step}; it has to divide hop_length, {hop_length}, "
                "without rest."
            )
        length = 4 * step + step % 2 if window_length is None else window_length
        if not 2 * step <= length <= max(LONGEST_WINDOW, 4 * step) or (length - step) % 2:
            raise OptionError(
                f"spectral: synthesis_window_length is {length}; with steps of {step} it is {2 * step} to "
                f"{LONGEST_WINDOW}, and the difference even. Usual are four steps."
            )
        return cls(Framing(length, step), hop_length // step)


class Synthesis(nn.Module):
    """Features a codec frame to channels a synthesis frame, by a backbone at the pace of these."""

    def __init__(self, synthesis: SynthesisFraming, features: int, backbone: MakeBackbone) -> None:
        super().__init__()
        self.framing, self.upsampling = synthesis.framing, synthesis.upsampling
        self.spread = nn.Linear(features, self.upsampling * SPREAD)
        self.backbone = backbone(SPREAD)

    def hidden(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """`[B, T, F]`, mask `[B, T * upsampling]` -> `[B, T * upsampling, X]`."""
        spread = rearrange(self.spread(features), "b t (n x) -> b (t n) x", n=self.upsampling)
        hidden: Tensor = self.backbone(spread, mask)
        return hidden

    def upsample_mask(self, mask: Tensor | None) -> Tensor | None:
        """A mask of codec frames `[B, T]` as one of synthesis frames."""
        return None if mask is None else mask.repeat_interleave(self.upsampling, dim=1)

    def codec_frames(self, synthesis_frames: int) -> int:
        """Codec frames that so many synthesis frames reach into."""
        return -(-synthesis_frames // self.upsampling)

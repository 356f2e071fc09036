"""Common parts of decoders whose synthesis frames may be shorter than the codec's frames.

Letters in shapes: F features of a frame, X hidden channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from einops import rearrange
from torch import Tensor, nn

from codecvq.errors import OptionError
from codecvq.networks.spectral.framing import LONGEST_WINDOW, AheadFraming, Framing
from codecvq.networks.spectral.parts import FrameNetwork

SPREAD = 96  # features per synthesis frame, computed from those of a codec frame

#: Builds a backbone for a given number of features per frame.
MakeBackbone = Callable[[int], FrameNetwork]


@dataclass(frozen=True)
class SynthesisFraming:
    """Framing of synthesis spectra, and their number per codec frame."""

    framing: Framing | AheadFraming
    upsampling: int  # synthesis frames per codec frame

    @classmethod
    def from_options(
        cls, head: str, hop_length: int, causal: bool, step: int | None, window_length: int | None
    ) -> SynthesisFraming:
        """Build it from options of the head. Raises OptionError.

        Args:
            head: Name of the head, for error messages.
            hop_length: Samples per codec frame.
            causal: Whether the network is causal. True raises OptionError.
            step: Samples per synthesis frame, by default `hop_length`.
            window_length: Samples per window, by default four steps.
        """
        if causal:
            raise OptionError(
                f"spectral: phase: {head} needs future frames, and the network is causal. Set phase: "
                "source or predicted."
            )
        step = _step(hop_length, step)
        length = 4 * step + step % 2 if window_length is None else window_length
        if not 2 * step <= length <= max(LONGEST_WINDOW, 4 * step) or (length - step) % 2:
            raise OptionError(
                f"spectral: synthesis_window_length is {length}; with steps of {step}, needed is {2 * step} "
                f"to {max(LONGEST_WINDOW, 4 * step)}, with an even difference from the step. Usual are four "
                "steps."
            )
        return cls(Framing(length, step), hop_length // step)

    @classmethod
    def causal(cls, hop_length: int, step: int | None, window_length: int | None) -> SynthesisFraming:
        """Build it for a causal network, with windows of three steps by default. Raises OptionError."""
        step = _step(hop_length, step)
        length = 3 * step if window_length is None else window_length
        if length % step or length % 2 or not 2 * step <= length <= max(LONGEST_WINDOW, 4 * step):
            raise OptionError(
                f"spectral: synthesis_window_length is {length}; with causal: true and steps of {step}, it "
                f"must be an even multiple of the step, from {2 * step} to {max(LONGEST_WINDOW, 4 * step)}. "
                "Usual are three steps."
            )
        return cls(AheadFraming(length, step), hop_length // step)


def _step(hop_length: int, step: int | None) -> int:
    """Return the samples per synthesis frame. Raises OptionError."""
    step = hop_length if step is None else step
    if step < 1 or hop_length % step:
        raise OptionError(
            f"spectral: synthesis_hop_length is {step}; it must divide hop_length, {hop_length}, without "
            "remainder."
        )
    return step


class Synthesis(nn.Module):
    """Base class of decoders that upsample codec frames to synthesis frames before their backbone."""

    def __init__(self, synthesis: SynthesisFraming, features: int, backbone: MakeBackbone) -> None:
        super().__init__()
        self.framing, self.upsampling = synthesis.framing, synthesis.upsampling
        self.spread = nn.Linear(features, self.upsampling * SPREAD)
        self.backbone = backbone(SPREAD)

    def hidden(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Upsample features and apply the backbone.

        Shapes: `[B, T, F]`, mask `[B, T * upsampling]` -> `[B, T * upsampling, X]`.
        """
        hidden: Tensor = self.backbone(self.spread_frames(features), mask)
        return hidden

    def spread_frames(self, features: Tensor) -> Tensor:
        """Upsample features: `[B, T, F]` -> `[B, T * upsampling, SPREAD]`."""
        return rearrange(self.spread(features), "b t (n x) -> b (t n) x", n=self.upsampling)

    def upsample_mask(self, mask: Tensor | None) -> Tensor | None:
        """Convert a mask of codec frames `[B, T]` to one of synthesis frames."""
        return None if mask is None else mask.repeat_interleave(self.upsampling, dim=1)

    def codec_frames(self, synthesis_frames: int) -> int:
        """Convert a number of synthesis frames to codec frames, rounded up."""
        return -(-synthesis_frames // self.upsampling)

"""An encoder's last step, where the pitch is written down and not learned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codecvq.networks.voice import pitch_code
from codecvq.networks.voice.knots import knots
from codecvq.networks.voice.pitch import PitchTracker


class PitchWriter(nn.Module):
    """Puts the pitch of audio into three channels of its latents, of which a frame lasts `upsampling` of the
    tracker's. What is written is the knots of the lines that follow the pitch best.
    """

    places: Tensor  # [3]: the channels

    def __init__(self, tracker: PitchTracker, upsampling: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.tracker, self.upsampling = tracker, upsampling
        self.channels = list(channels)
        self.register_buffer("places", torch.tensor(self.channels), persistent=False)

    def forward(self, latents: Tensor, wav: Tensor, mask: Tensor | None) -> Tensor:
        """Latents `[B, T, D]` of audio `[B, 1, S]`, mask `[B, T]` -> with the pitch."""
        fine_mask = None if mask is None else mask.repeat_interleave(self.upsampling, dim=1)
        pitch = self.tracker(wav, fine_mask)
        code = pitch_code.encode(knots(pitch.position, pitch.voiced, self.upsampling, mask))
        return latents.index_copy(2, self.places, code.to(latents.dtype))

"""`PitchWriter`, the last layer of an encoder, which writes a measured pitch into the latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codecvq.networks.voice import pitch_code
from codecvq.networks.voice.knots import knots
from codecvq.networks.voice.pitch import PitchTracker


class PitchWriter(nn.Module):
    """Writes the pitch of audio into three latent channels.

    A codec frame has `upsampling` frames of the tracker. The written values are the knots of the piecewise
    linear function that is closest to the pitch.
    """

    places: Tensor  # [3]: channel indices

    def __init__(self, tracker: PitchTracker, upsampling: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.tracker, self.upsampling = tracker, upsampling
        self.channels = list(channels)
        self.register_buffer("places", torch.tensor(self.channels), persistent=False)

    def forward(self, latents: Tensor, wav: Tensor, mask: Tensor | None) -> Tensor:
        """Write the pitch of audio `[B, 1, S]` into latents `[B, T, D]`, mask `[B, T]` -> `[B, T, D]`."""
        fine_mask = None if mask is None else mask.repeat_interleave(self.upsampling, dim=1)
        pitch = self.tracker(wav, fine_mask)
        code = pitch_code.encode(knots(pitch.position, pitch.voiced, self.upsampling, mask))
        return latents.index_copy(2, self.places, code.to(latents.dtype))

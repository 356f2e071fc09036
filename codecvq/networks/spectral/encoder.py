"""The encoder: features, a backbone, and values that a head's writer puts into the latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from codecvq.api.reach import Reach
from codecvq.networks.spectral.parts import FrameNetwork, FrontEnd
from codecvq.networks.spectral.streaming import FrontEndStream
from codecvq.streaming import Chain, FramewiseModule, StreamingModule, exact_stream


class SpectralEncoder(nn.Module):
    """Encodes audio to latents.

    Args:
        front: Features of audio.
        backbone: Network over the features.
        hop_length: Samples per frame.
        dim: Number of latent channels D.
        writer: Module that writes values for the head into the latents; see `Head`.
    """

    def __init__(
        self,
        front: FrontEnd,
        backbone: FrameNetwork,
        hop_length: int,
        dim: int,
        writer: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.front, self.pitch, self.hop_length = front, writer, hop_length
        if writer is not None:  # the buffer makes these channels part of the hash of the codes
            self.register_buffer("written_at", torch.tensor(writer.channels))
            self.register_load_state_dict_pre_hook(_check_written_at)
        self.backbone = backbone
        self.project = nn.Linear(backbone.width, dim)
        frames = backbone.reach
        if writer is None and frames.past is not None:  # a pitch writer depends on all audio
            past, future = frames.past * hop_length + front.before, frames.future * hop_length + front.after
            self.reach = Reach(past, future)

    def forward(self, wav: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode audio: `[B, 1, S]`, S = T * H, mask `[B, T]` -> `[B, D, T]`."""
        with torch.autocast(wav.device.type, enabled=False):
            features = self.front(wav)
        latents = self.project(self.backbone(features, mask))
        if self.pitch is not None:
            latents = self.pitch(latents, wav, mask)
        return rearrange(latents, "b t d -> b d t")

    def as_stream(self) -> StreamingModule | None:
        """Return a stream with exact state if all parts have one, else None."""
        backbone = exact_stream(self.backbone)
        if backbone is None or self.pitch is not None or not self.front.accepts_padded:
            return None
        front = FrontEndStream(self.front, self.hop_length)
        return Chain([front, backbone, FramewiseModule(self._projected, products=True)])

    def _projected(self, hidden: Tensor) -> Tensor:
        """Project `[B, X, T]` to latents `[B, D, T]`."""
        latents: Tensor = self.project(hidden.transpose(1, 2))
        return latents.transpose(1, 2)


def _check_written_at(encoder: nn.Module, weights: Mapping[str, Tensor], prefix: str, *details: Any) -> None:
    """Report an error unless the weights have their pitch in the same latent channels.

    torch calls it before it loads weights; the last of `details` is the list of error messages.
    """
    saved, own = weights.get(f"{prefix}written_at"), encoder.get_buffer("written_at")
    if saved is not None and saved.tolist() != own.tolist():
        details[-1].append(
            f"their pitch is written in channels {saved.tolist()}, and pitch_channels are {own.tolist()}"
        )

"""The head of Vocos (arXiv:2306.00814), which predicts magnitudes and phases."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from codecvq.api.reach import Reach
from codecvq.networks.spectral.framing import Crossfade, Framing, framing_of
from codecvq.networks.spectral.parts import Decoder, Head
from codecvq.networks.spectral.synthesis import MakeBackbone
from codecvq.streaming import StreamingModule


def make_predicted(
    *,
    sample_rate: int,
    hop_length: int,
    causal: bool,
    dim: int,
    backbone: MakeBackbone,
    window_length: int | None = None,
) -> Head:
    """Build a head that predicts phases.

    Windows have `window_length` samples, by default four hops. In causal networks they have one and a half
    hops, and `window_length` is ignored.
    """
    del sample_rate
    framing = Crossfade(hop_length) if causal else framing_of(window_length, hop_length)
    return Head(partial(_decoder, framing, dim, backbone, causal))


def _decoder(framing: Framing | Crossfade, dim: int, backbone: MakeBackbone, causal: bool) -> Decoder:
    network = backbone(dim)
    overlap = framing.overlapping_frames
    return Decoder(
        network, PredictedSpectra(network.width, framing), Reach(overlap, 0 if causal else overlap)
    )


class PredictedSpectra(nn.Linear):
    """A linear layer to log magnitudes and phases, and inverse STFT: `[B, T, X]` -> audio `[B, 1, T * H]`."""

    def __init__(self, width: int, framing: Framing | Crossfade) -> None:
        super().__init__(width, 2 * framing.bins)
        self.framing = framing

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """Synthesize audio: `[B, T, X]`, mask `[B, T]` -> `[B, 1, T * H]`."""
        spectra = self.spectra(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            return self.framing.overlap_add(spectra, mask)

    def spectra(self, hidden: Tensor) -> Tensor:
        """Predict spectra: `[B, T, X]` -> complex `[B, T, F]`."""
        predicted = super().forward(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            log_magnitude, phase = predicted.float().chunk(2, dim=2)  # [B, T, F] each
            magnitude = log_magnitude.clamp(max=5).exp()  # e^5 = 148 is above full scale
            return torch.polar(magnitude, phase)

    def as_stream(self) -> StreamingModule | None:
        """Return a stream with exact state if the network is causal, else None."""
        from codecvq.networks.spectral.streaming import CrossfadeStream

        return CrossfadeStream(self, self.framing) if isinstance(self.framing, Crossfade) else None

"""The spectral network: everything between the two Fourier transforms happens at the frame rate.

wav -> log-mel (or compressed STFT) -> ConvNeXt blocks -> latents -> ConvNeXt blocks -> magnitude and phase ->
inverse STFT, after Vocos (arXiv:2306.00814) with an encoder of the same kind. LayerNorm is per frame and
there is no normalisation over time, so neither padding nor cutting into chunks changes a frame beyond the
receptive field.

Offline, windows are centred on their hops both ways (`Framing`), convolutions see three frames on either
side. Causal, the analysis window ends with its hop, or `lookahead_frames` hops later; convolutions see six
frames back; and the decoder's signal of a frame begins with its hop (`Crossfade`): audio up to (t + 1)H is
decoded from codes up to frame t, which were made from audio up to (t + 1 + lookahead_frames)H. Letters: F
features or frequencies a frame, X channels inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.errors import OptionError
from codecvq.networks.features import Beside, CompressedStft, DetailMel, FrontEnd, LogMel
from codecvq.networks.framing import Crossfade, Framing
from codecvq.networks.interface import Network, Reach, zero_padding
from codecvq.networks.presets import sized

KERNEL = 7  # frames that a convolution sees


@dataclass(frozen=True, kw_only=True)
class Size:
    """Channels inside, and blocks."""

    encoder_width: int
    encoder_blocks: int
    decoder_width: int
    decoder_blocks: int


PRESETS = {
    "tiny": Size(encoder_width=128, encoder_blocks=3, decoder_width=192, decoder_blocks=4),
    "small": Size(encoder_width=256, encoder_blocks=4, decoder_width=384, decoder_blocks=6),
    "base": Size(encoder_width=384, encoder_blocks=8, decoder_width=512, decoder_blocks=8),
    "large": Size(encoder_width=512, encoder_blocks=8, decoder_width=768, decoder_blocks=12),
}


def build_spectral(
    *,
    sample_rate: int,
    channels: int = 1,
    hop_length: int = 320,
    window_length: int = 1280,
    features: Literal["log_mel", "stft"] = "log_mel",
    num_mels: int = 100,
    detail_window_length: int = 0,
    causal: bool = False,
    lookahead_frames: int = 0,
    preset: str = "small",
    encoder_width: int | None = None,
    encoder_blocks: int | None = None,
    decoder_width: int | None = None,
    decoder_blocks: int | None = None,
    dim: int = 64,
) -> Network:
    """A spectral network. `preset` is its size, of which widths and blocks that are given take their place;
    `dim` is D of the latents, lengths are in samples.

    `detail_window_length`, where not 0, shows the encoder log-mels of a second, shorter window too: onsets
    that the long one smears. `lookahead_frames` are hops that the encoder of a causal network waits for.
    """
    size = sized(
        "spectral",
        PRESETS,
        preset,
        encoder_width=encoder_width,
        encoder_blocks=encoder_blocks,
        decoder_width=decoder_width,
        decoder_blocks=decoder_blocks,
    )
    _check(channels, hop_length, window_length, causal, lookahead_frames)
    after = lookahead_frames * hop_length if causal else None
    framing = Framing(window_length, hop_length, after)
    if features == "log_mel":
        front: FrontEnd = LogMel(framing, sample_rate, num_mels)
        if detail_window_length:
            front = Beside(front, DetailMel(detail_window_length, hop_length, sample_rate, num_mels, after))
    elif features == "stft":
        front = CompressedStft(framing)
    else:
        raise OptionError(f"spectral: features is {features!r}; it is log_mel or stft")
    encoder = SpectralEncoder(front, hop_length, size.encoder_width, size.encoder_blocks, dim, causal)
    synthesis = Crossfade(hop_length) if causal else framing
    decoder = SpectralDecoder(synthesis, dim, size.decoder_width, size.decoder_blocks, causal)
    return Network(encoder, decoder, dim, hop_length)


def _check(channels: int, hop_length: int, window_length: int, causal: bool, lookahead_frames: int) -> None:
    if channels != 1:
        raise OptionError(
            f"spectral: channels is {channels}; this network is for mono audio. Set channels: 1."
        )
    uncentred = not causal and (window_length - hop_length) % 2
    if window_length < hop_length or uncentred or hop_length < 1:
        raise OptionError(
            f"spectral: window_length {window_length} and hop_length {hop_length}: the window must be at "
            "least a hop, "
            f"and the difference even. Usual is window_length = 4 * hop_length."
        )
    if lookahead_frames and not causal:
        raise OptionError(
            f"spectral: lookahead_frames is {lookahead_frames}, but the network is not causal and sees what "
            "it needs. Set causal: true, or leave lookahead_frames out."
        )
    if not 0 <= lookahead_frames * hop_length <= window_length - hop_length:
        raise OptionError(
            f"spectral: lookahead_frames is {lookahead_frames}; with a window of {window_length} samples and "
            f"hops of {hop_length} it is 0 to {window_length // hop_length - 1}."
        )


class FrameConv(nn.Conv1d):
    """A convolution over seven frames of `[B, T, X]`: around each, or where `causal` up to each."""

    def __init__(self, width_in: int, width_out: int, causal: bool, groups: int = 1) -> None:
        super().__init__(width_in, width_out, KERNEL, padding=0 if causal else KERNEL // 2, groups=groups)
        self.causal = causal

    def forward(self, hidden: Tensor) -> Tensor:
        """`[B, T, X]` -> `[B, T, Y]`."""
        channels_first = rearrange(hidden, "b t x -> b x t")
        if self.causal:
            channels_first = F.pad(channels_first, (KERNEL - 1, 0))
        return rearrange(super().forward(channels_first), "b x t -> b t x")


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over 7 frames, LayerNorm per frame, an MLP of three times the width, a learned
    scale, a skip.
    """

    def __init__(self, width: int, scale: float, causal: bool) -> None:
        super().__init__()
        self.depthwise = FrameConv(width, width, causal, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 3 * width)
        self.narrow = nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """`[B, T, X]` -> `[B, T, X]`."""
        mixed = self.depthwise(zero_padding(hidden, mask))
        return hidden + self.scale * self.narrow(F.gelu(self.widen(self.norm(mixed))))


class Backbone(nn.Module):
    """Features in, ConvNeXt blocks, LayerNorm: `[B, T, F]` -> `[B, T, X]`."""

    def __init__(self, features: int, width: int, blocks: int, causal: bool) -> None:
        super().__init__()
        self.embed = FrameConv(features, width, causal)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(ConvNeXtBlock(width, 1 / blocks, causal) for _ in range(blocks))
        self.norm_out = nn.LayerNorm(width)
        frames = (blocks + 1) * (KERNEL - 1)
        self.reach = Reach(frames, 0) if causal else Reach(frames // 2, frames // 2)  # in frames

    def forward(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """`[B, T, F]`, mask `[B, T]` -> `[B, T, X]`."""
        hidden = self.norm_in(self.embed(zero_padding(features, mask)))
        for block in self.blocks:
            hidden = block(hidden, mask)
        return self.norm_out(hidden)


class SpectralEncoder(nn.Module):
    """Audio to latents."""

    def __init__(
        self, front: FrontEnd, hop_length: int, width: int, blocks: int, dim: int, causal: bool
    ) -> None:
        super().__init__()
        self.front = front
        self.backbone = Backbone(front.num_features, width, blocks, causal)
        self.project = nn.Linear(width, dim)
        frames = self.backbone.reach
        assert frames.past is not None, "there is nothing recurrent in it"
        self.reach = Reach(frames.past * hop_length + front.before, frames.future * hop_length + front.after)

    def forward(self, wav: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B, 1, S]`, S = T * H, mask `[B, T]` -> `[B, D, T]`."""
        with torch.autocast(wav.device.type, enabled=False):
            features = self.front(wav)
        return rearrange(self.project(self.backbone(features, mask)), "b t d -> b d t")


class SpectralDecoder(nn.Module):
    """Latents to audio."""

    def __init__(self, framing: Framing | Crossfade, dim: int, width: int, blocks: int, causal: bool) -> None:
        super().__init__()
        self.framing = framing
        self.backbone = Backbone(dim, width, blocks, causal)
        self.head = nn.Linear(width, 2 * framing.bins)
        frames = self.backbone.reach
        assert frames.past is not None, "there is nothing recurrent in it"
        beside = framing.frames_beside
        self.reach = Reach(frames.past + beside, 0 if causal else frames.future + beside)

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B, D, T]`, mask `[B, T]` -> `[B, 1, T * H]`."""
        hidden = self.head(self.backbone(rearrange(latents, "b d t -> b t d"), mask))
        with torch.autocast(latents.device.type, enabled=False):
            log_magnitude, phase = hidden.float().chunk(2, dim=2)  # [B, T, F] each
            magnitude = log_magnitude.clamp(max=5).exp()  # e^5 = 148: louder than full scale can be
            return self.framing.overlap_add(torch.polar(magnitude, phase), mask)

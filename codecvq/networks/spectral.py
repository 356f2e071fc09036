"""The spectral network: everything between the two Fourier transforms happens at the frame rate.

wav -> log-mel (or compressed STFT) -> ConvNeXt blocks -> latents -> ConvNeXt blocks -> magnitude and phase ->
inverse STFT, after Vocos (arXiv:2306.00814) with an encoder of the same kind. LayerNorm is per frame and
there is no normalisation over time, so neither padding nor cutting into chunks changes a frame beyond the
receptive field.

Framing, both ways: with W = window and H = hop, frame t covers samples tH - P … tH - P + W, P = (W - H)/2,
zeros beyond the ends. So S = T·H samples make T frames, and T frames make T·H samples. Letters: F features or
frequencies a frame, X channels inside.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.errors import OptionError
from codecvq.networks.interface import Network, zero_padding

FLOOR = 1e-5  # of magnitudes before the logarithm: -100 dB


def build_spectral(
    *,
    sample_rate: int,
    channels: int = 1,
    hop_length: int = 320,
    window_length: int = 1280,
    features: Literal["log_mel", "stft"] = "log_mel",
    num_mels: int = 100,
    encoder_width: int = 256,
    encoder_blocks: int = 4,
    decoder_width: int = 384,
    decoder_blocks: int = 6,
    dim: int = 64,
) -> Network:
    """A spectral network. Widths are channels inside, `dim` is D of the latents, lengths are in samples."""
    if channels != 1:
        raise OptionError(
            f"spectral: channels is {channels}; this network is for mono audio. Set channels: 1."
        )
    if window_length < hop_length or (window_length - hop_length) % 2 or hop_length < 1:
        raise OptionError(
            f"spectral: window_length {window_length} and hop_length {hop_length}: the window must be at "
            "least a hop, "
            f"and the difference even. Usual is window_length = 4 * hop_length."
        )
    framing = Framing(window_length, hop_length)
    if features == "log_mel":
        front: nn.Module = LogMel(framing, sample_rate, num_mels)
        num_features = num_mels
    elif features == "stft":
        front, num_features = CompressedStft(framing), 2 * framing.bins
    else:
        raise OptionError(f"spectral: features is {features!r}; it is log_mel or stft")
    encoder = SpectralEncoder(front, num_features, encoder_width, encoder_blocks, dim)
    decoder = SpectralDecoder(framing, dim, decoder_width, decoder_blocks)
    return Network(encoder, decoder, dim, hop_length)


class Framing(nn.Module):
    """Audio to windowed spectra and back."""

    window: Tensor  # [W]

    def __init__(self, window_length: int, hop_length: int) -> None:
        super().__init__()
        self.window_length, self.hop_length = window_length, hop_length
        self.overlap = (window_length - hop_length) // 2
        self.bins = window_length // 2 + 1
        self.register_buffer("window", torch.hann_window(window_length), persistent=False)

    def spectra(self, wav: Tensor) -> Tensor:
        """Complex spectra: `[B, 1, S]` -> `[B, T, F]`, T = S/H."""
        padded = F.pad(wav[:, 0].float(), (self.overlap, self.overlap))
        frames = padded.unfold(1, self.window_length, self.hop_length)  # [B, T, W]
        return torch.fft.rfft(frames * self.window, dim=2)

    def overlap_add(self, spectra: Tensor, mask: Tensor | None) -> Tensor:
        """The inverse: `[B, T, F]` complex -> `[B, 1, T * H]`, divided by the sum of the squared windows of
        real frames.
        """
        batch, frames, _ = spectra.shape
        pieces = torch.fft.irfft(spectra, n=self.window_length, dim=2) * self.window  # [B, T, W]
        real = torch.ones(batch, frames, device=pieces.device) if mask is None else mask.to(pieces.dtype)
        envelope = self._fold(real[:, :, None] * self.window.square())
        return (self._fold(zero_padding(pieces, mask)) / envelope.clamp(min=1e-4))[:, None]

    def _fold(self, pieces: Tensor) -> Tensor:
        """Pieces `[B, T, W]` added where they belong, without the outer overlap: `[B, T * H]`."""
        frames = pieces.shape[1]
        length = (frames - 1) * self.hop_length + self.window_length
        folded = F.fold(
            rearrange(pieces, "b t w -> b w t"),
            output_size=(1, length),
            kernel_size=(1, self.window_length),
            stride=(1, self.hop_length),
        )
        return folded[:, 0, 0, self.overlap : self.overlap + frames * self.hop_length]


class LogMel(nn.Module):
    """Log-mel features, `[B, 1, S]` -> `[B, T, F]`; magnitudes, Slaney's mel scale, decadic logarithm, about
    -1 … 1.
    """

    mel: Tensor  # [bins, F]; saved with the weights, so that codes do not hang on the version of a library

    def __init__(self, framing: Framing, sample_rate: int, num_mels: int) -> None:
        super().__init__()
        import librosa.filters

        self.framing = framing
        mel = librosa.filters.mel(sr=sample_rate, n_fft=framing.window_length, n_mels=num_mels, norm=None)
        self.register_buffer("mel", torch.from_numpy(mel).T.contiguous())

    def forward(self, wav: Tensor) -> Tensor:
        """Features of audio: `[B, 1, S]` -> `[B, T, F]`."""
        magnitudes = self.framing.spectra(wav).abs() / self.framing.window.sum()
        return (magnitudes @ self.mel).clamp(min=FLOOR).log10() / 2 + 1


class CompressedStft(nn.Module):
    """Real and imaginary parts with magnitudes to the power 0.3, `[B, 1, S]` -> `[B, T, 2 * bins]`."""

    def __init__(self, framing: Framing) -> None:
        super().__init__()
        self.framing = framing

    def forward(self, wav: Tensor) -> Tensor:
        """Features of audio: `[B, 1, S]` -> `[B, T, 2 * bins]`."""
        spectra = self.framing.spectra(wav) / self.framing.window.sum()
        scaled = spectra * spectra.abs().clamp(min=FLOOR).pow(-0.7)
        return torch.cat([scaled.real, scaled.imag], dim=2)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over 7 frames, LayerNorm per frame, an MLP of three times the width, a learned
    scale, a skip.
    """

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel_size=7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 3 * width)
        self.narrow = nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """`[B, T, X]` -> `[B, T, X]`."""
        mixed = depthwise(zero_padding(hidden, mask), self.depthwise)
        return hidden + self.scale * self.narrow(F.gelu(self.widen(self.norm(mixed))))


def depthwise(hidden: Tensor, conv: nn.Conv1d) -> Tensor:
    """The depthwise convolution of `[B, T, X]`, with the frames on the second axis."""
    return rearrange(conv(rearrange(hidden, "b t x -> b x t")), "b x t -> b t x")


class Backbone(nn.Module):
    """Features in, ConvNeXt blocks, LayerNorm: `[B, T, F]` -> `[B, T, X]`."""

    def __init__(self, features: int, width: int, blocks: int) -> None:
        super().__init__()
        self.embed = nn.Conv1d(features, width, kernel_size=7, padding=3)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(ConvNeXtBlock(width, scale=1 / blocks) for _ in range(blocks))
        self.norm_out = nn.LayerNorm(width)

    def forward(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """`[B, T, F]`, mask `[B, T]` -> `[B, T, X]`."""
        hidden = self.norm_in(depthwise(zero_padding(features, mask), self.embed))
        for block in self.blocks:
            hidden = block(hidden, mask)
        return self.norm_out(hidden)


class SpectralEncoder(nn.Module):
    """Audio to latents."""

    def __init__(self, front: nn.Module, features: int, width: int, blocks: int, dim: int) -> None:
        super().__init__()
        self.front = front
        self.backbone = Backbone(features, width, blocks)
        self.project = nn.Linear(width, dim)

    def forward(self, wav: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B, 1, S]`, S = T * H, mask `[B, T]` -> `[B, D, T]`."""
        with torch.autocast(wav.device.type, enabled=False):
            features = self.front(wav)
        return rearrange(self.project(self.backbone(features, mask)), "b t d -> b d t")


class SpectralDecoder(nn.Module):
    """Latents to audio."""

    def __init__(self, framing: Framing, dim: int, width: int, blocks: int) -> None:
        super().__init__()
        self.framing = framing
        self.backbone = Backbone(dim, width, blocks)
        self.head = nn.Linear(width, 2 * framing.bins)

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B, D, T]`, mask `[B, T]` -> `[B, 1, T * H]`."""
        hidden = self.head(self.backbone(rearrange(latents, "b d t -> b t d"), mask))
        with torch.autocast(latents.device.type, enabled=False):
            log_magnitude, phase = hidden.float().chunk(2, dim=2)  # [B, T, F] each
            magnitude = log_magnitude.clamp(max=5).exp()  # e^5 = 148: louder than full scale can be
            return self.framing.overlap_add(torch.polar(magnitude, phase), mask)

"""Autocorrelations of frames of audio, by which the pitch is measured. G is the size of the grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.networks.voice.grid import LOWEST_HZ, grid_size, hz_of

PERIODS = 3  # periods of the lowest frequency per window
MAX_CORRELATION_HZ = 4000.0  # above it, voiced speech is often noisy, too

FRAMES_AT_ONCE = 1024  # frames per Fourier transform call: bounds memory, and fits the cache of a CPU


class Correlation(nn.Module):
    """Autocorrelations of Hann-windowed frames at the lags of the grid.

    Frames are centered on hops. The results of a frame depend on no other frame, to the last bit.
    """

    window: Tensor  # [W]
    cosines: Tensor  # [K, G]: cosines of the used frequency bins at the lags of the grid
    own: Tensor  # [G]: autocorrelation of the window

    def __init__(self, sample_rate: int, hop_length: int, lowest_hz: float) -> None:
        super().__init__()
        length = round(PERIODS * sample_rate / lowest_hz)
        self.hop_length, self.length = hop_length, length + (length - hop_length) % 2
        self.size = 2 ** math.ceil(math.log2(self.length + sample_rate / LOWEST_HZ))
        window = torch.hann_window(self.length)
        lags = sample_rate / hz_of(torch.arange(grid_size(), dtype=torch.float64))
        bins = torch.arange(self.size // 2 + 1, dtype=torch.float64)
        cosines = torch.cos(2 * torch.pi / self.size * bins[:, None] * lags)
        power = torch.fft.rfft(window.double(), n=self.size).abs().square()
        power[1:] *= 2  # bins also represent their mirror images
        num_bins = min(len(bins), round(MAX_CORRELATION_HZ / sample_rate * self.size) + 1)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("cosines", cosines[:num_bins].float(), persistent=False)
        self.register_buffer("own", (power @ cosines / power.sum()).float().clamp(min=0.1), persistent=False)

    @property
    def margin(self) -> int:
        """Number of samples on either side of a hop that its window contains; 0 for shorter windows."""
        return max(0, (self.length - self.hop_length) // 2)

    def forward(self, wav: Tensor, context: int = 0) -> tuple[Tensor, Tensor]:
        """Compute autocorrelations `[B, T, G]` and peaks `[B, T]` of the frames of audio `[B, S]`.

        The audio has `context` samples before the first hop and after the last one, and zeros beyond.
        """
        parts = [self._part(part) for part in self._frames(wav, context).split(FRAMES_AT_ONCE, dim=1)]
        strengths, peaks = zip(*parts, strict=True)
        return torch.cat(strengths, dim=1), torch.cat(peaks, dim=1)

    def peaks(self, wav: Tensor, context: int = 0) -> Tensor:
        """Compute the peaks `[B, T]` of `forward` alone."""
        parts = self._frames(wav, context).split(FRAMES_AT_ONCE, dim=1)
        return torch.cat([_peaks(_centered(part)) for part in parts], dim=1)

    def _frames(self, wav: Tensor, context: int) -> Tensor:
        """Return the frames `[B, T, W]` as a view of padded audio."""
        missing = self.margin - context  # a negative number removes samples
        wav = F.pad(wav, (missing, missing))
        if self.length >= self.hop_length:
            return wav.unfold(1, self.length, self.hop_length)
        skipped = (self.hop_length - self.length) // 2
        return wav.unfold(1, self.hop_length, self.hop_length)[..., skipped : skipped + self.length]

    def _part(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        frames = _centered(frames)
        power = torch.fft.rfft(frames * self.window, n=self.size)[..., : len(self.cosines)].abs().square()
        power[..., 1:] *= 2
        total = power.sum(dim=2, keepdim=True).clamp(min=1e-12)
        if power.shape[:2] == (1, 1):  # CPUs round the product of a single row in another way
            power = power.expand(1, 2, -1)
        correlations = (power @ self.cosines)[:, : frames.shape[1]]
        return correlations / total / self.own, _peaks(frames)


def _centered(frames: Tensor) -> Tensor:
    return frames - frames.mean(dim=2, keepdim=True)


def _peaks(centered: Tensor) -> Tensor:
    return centered.abs().amax(dim=2)

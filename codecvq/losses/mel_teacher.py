"""Teachers without weights: log-mel spectra and cepstra."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional as F

from codecvq.errors import OptionError
from codecvq.losses.teacher import Teacher
from codecvq.networks.fourier import mel_filters, power_spectra

WINDOW_S, HOP_S = 0.025, 0.01
FLOOR = 1e-10  # powers: -100 dB re full scale
MIN_DEVIATION = 1e-3  # in natural logarithms of power; limits the gain for nearly constant bands


class MelTeacher(Teacher):
    """Log-mel spectra at about 100 frames per second.

    Each band has mean 0 and standard deviation 1 over the item.

    Args:
        bands: the number of mel bands.
    """

    window: Tensor
    filters: Tensor  # [W/2 + 1, bands]

    def __init__(self, sample_rate: int, bands: int = 80) -> None:
        super().__init__()
        size, self.hop_length = 2 * round(WINDOW_S * sample_rate / 2), max(1, round(HOP_S * sample_rate))
        if not 1 <= bands <= size // 2:
            raise OptionError(f"teacher: bands is {bands}; it must be 1 to {size // 2}.")
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        filters = mel_filters(sample_rate, size, bands)
        filters = filters[:, filters.sum(dim=0) > 0]  # excludes bands that lie between two frequencies
        self.register_buffer("filters", filters, persistent=False)
        self.dim = filters.shape[1]
        self.frame_rate, self.first_s = Fraction(sample_rate, self.hop_length), Fraction(0)

    def features(self, wav: Tensor) -> Tensor:
        """Return features of audio: `[B, C, S]` -> `[B, bands, frames]`; averages the channels."""
        return _normalized(self.levels(wav))

    def levels(self, wav: Tensor) -> Tensor:
        """Return natural logarithms of powers in bands: `[B, C, S]` -> `[B, bands, frames]`."""
        size = len(self.window)
        padded = F.pad(wav.mean(dim=1), (size // 2, size // 2))
        powers = power_spectra(padded.unfold(1, size, self.hop_length) * self.window / self.window.sum())
        return (powers @ self.filters + FLOOR).log().mT


class MfccTeacher(MelTeacher):
    """Mel-frequency cepstral coefficients with their first and second differences over time.

    Each feature has mean 0 and standard deviation 1 over the item. HuBERT (arXiv:2106.07447) uses these
    features for its first iteration. Reference: Davis and Mermelstein (1980), doi:10.1109/TASSP.1980.1163420.

    Args:
        coefficients: number of coefficients per frame, including the level (coefficient 0).
        bands: number of mel bands that they are computed from.
    """

    transform: Tensor  # [coefficients, bands]: the discrete cosine transform, orthonormal

    def __init__(self, sample_rate: int, coefficients: int = 13, bands: int = 40) -> None:
        super().__init__(sample_rate, bands)
        if not 1 <= coefficients <= self.dim:
            raise OptionError(f"teacher mfcc: coefficients is {coefficients}; it must be 1 to {self.dim}.")
        n, k = torch.arange(self.dim) + 0.5, torch.arange(coefficients)[:, None]
        transform = (math.pi / self.dim * k * n).cos() * (2 / self.dim) ** 0.5
        transform[0] /= 2**0.5
        self.register_buffer("transform", transform, persistent=False)
        self.dim = 3 * coefficients

    def features(self, wav: Tensor) -> Tensor:
        """Return features of audio: `[B, C, S]` -> `[B, 3 * coefficients, frames]`; averages the channels."""
        cepstra = self.transform @ self.levels(wav)
        first = _difference(cepstra)
        return _normalized(torch.cat([cepstra, first, _difference(first)], dim=1))


def _difference(rows: Tensor) -> Tensor:
    """Return half the difference of next and previous frame, `[..., T]` -> `[..., T]`; repeats the ends."""
    padded = F.pad(rows, (1, 1), mode="replicate")
    return (padded[..., 2:] - padded[..., :-2]) / 2


def _normalized(features: Tensor) -> Tensor:
    """Normalize each feature of `[B, F, T]` to mean 0 and standard deviation 1 over time."""
    centered = features - features.mean(dim=2, keepdim=True)
    return centered / (centered.square().mean(dim=2, keepdim=True) + MIN_DEVIATION**2).sqrt()

"""The similarity of neurograms (NSIM), which compares the local structure of spectrograms.

NSIM is by Hines and Harte (2012), doi:10.1016/j.specom.2011.09.004. ViSQOL (arXiv:2004.09584) uses it patch
by patch. Let r(t, b) and d(t, b) be gammatone spectrograms of reference and decoded audio, as 10 lg of
amplitudes above a floor of -90 dB, in frames t of 80 ms, 20 ms apart, and in B bands b that are equidistant
on the scale of equivalent rectangular bandwidths. With means μ, variances σ² and the covariance σrd under a
Gaussian window of 3 x 3 cells:

    similarity   s(t, b) = (2 μr μd + C1) / (μr² + μd² + C1) · (σrd + ε + C3) / (√((σr² + ε)(σd² + ε)) + C3)
    the loss     1 - mean of s over the bands from 150 Hz and the speech frames; 0 without speech frames

Mel losses compare levels. This loss compares how they rise and fall, whatever the amount, so it penalizes
over-smoothing. C1 is the value of the paper. C3 is .1 in place of .00045; otherwise flat patches dominate the
gradient. ε = .001 makes the loss smooth. Speech frames are within 40 dB of the loudest frame and above -60 dB
re full scale in some band. Bands below 150 Hz do not count, so that no bits are spent on the modulation of
hum below the voice. The loss optimizes the quantity that ViSQOL measures, so evaluate codecs trained with it
with other metrics as well.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from codecvq.losses.interface import AudioLoss
from codecvq.networks.fourier import power_spectra

BANDS = 21
FRAME_S = 0.08  # four hops
LOWEST_HZ, HIGHEST_HZ = 50.0, 8000.0
COUNTED_FROM_HZ = 150.0
FLOOR = 1e-9  # powers: -90 dB re full scale
SPEECH_DB = -40.0  # re the loudest frame of the item
QUIETEST_DB = -60.0  # re full scale: the modulation of room noise is not learned
C1, C3, EPSILON = 1e-4, 0.1, 1e-3
DEVIATION = 0.5  # of the Gaussian window, in cells


class SimilarityLoss(AudioLoss):
    """One minus the neurogram similarity of decoded audio, mean over items; see the module.

    Args:
        sample_rate: in hertz, at least 8000.
    """

    window: Tensor  # [W]; scaled so that the powers of a spectrum sum to the mean power of the windowed frame
    shares: Tensor  # [W/2 + 1, B]: power response of the gammatone filters
    counted: Tensor  # [B], sum 1: weights of the bands
    cells: Tensor  # [3, 3], sum 1: the Gaussian window

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.hop_length = round(FRAME_S / 4 * sample_rate)
        size = 4 * self.hop_length
        window = torch.hann_window(size, dtype=torch.float64)
        self.register_buffer("window", (window * 2**0.5 / size).float(), persistent=False)
        frequencies = torch.arange(size // 2 + 1, dtype=torch.float64) * sample_rate / size
        edges = torch.tensor([LOWEST_HZ, min(HIGHEST_HZ, sample_rate / 2)], dtype=torch.float64)
        low, high = _erbs(edges)
        centers = _hertz(torch.linspace(float(low), float(high), BANDS + 1, dtype=torch.float64)[:-1])
        distance = (frequencies[:, None] - centers) / (1.019 * _bandwidth(centers))
        self.register_buffer("shares", ((1 + distance.square()) ** -4).float(), persistent=False)
        counted = (centers >= COUNTED_FROM_HZ).float()
        self.register_buffer("counted", counted / counted.sum(), persistent=False)
        line = torch.exp(-0.5 * (torch.arange(-1, 2) / DEVIATION) ** 2)
        line = line / line.sum()
        self.register_buffer("cells", line[:, None] * line, persistent=False)

    def distance(self, decoded: Tensor, reference: Tensor) -> Tensor:
        """Return the 0-d loss of audio `[B, C, S]` against `[B, C, S]`, in float32 without autocast."""
        with torch.autocast(decoded.device.type, enabled=False):
            with torch.no_grad():
                reference_levels = self._levels(reference.flatten(0, 1))
                loudest = reference_levels.amax(dim=2)
                quietest = loudest.amax(dim=1, keepdim=True) + SPEECH_DB / 2  # levels are 10 lg of amplitudes
                speech = loudest >= quietest.clamp(min=QUIETEST_DB / 2)
            dissimilarity = (
                1 - self.similarity(reference_levels, self._levels(decoded.flatten(0, 1))) @ self.counted
            )
            return ((dissimilarity * speech).sum(dim=1) / speech.sum(dim=1).clamp(min=1)).mean()

    def similarity(self, reference: Tensor, decoded: Tensor) -> Tensor:
        """Return s `[B, T, bands]` for levels `[B, T, bands]` and `[B, T, bands]`."""
        lowest = 5 * math.log10(FLOOR)
        r, d = (levels - lowest for levels in (reference, decoded))
        mean_r, mean_d, square_r, square_d, product = self._local_means(r, d, r * r, d * d, r * d)
        variance_r, variance_d = (
            (square - mean * mean).clamp(min=0) for square, mean in ((square_r, mean_r), (square_d, mean_d))
        )
        intensity = (2 * mean_r * mean_d + C1) / (mean_r.square() + mean_d.square() + C1)
        spread = ((variance_r + EPSILON) * (variance_d + EPSILON)).sqrt()
        return intensity * (product - mean_r * mean_d + EPSILON + C3) / (spread + C3)

    def _local_means(self, *cells: Tensor) -> tuple[Tensor, ...]:
        """Return means `[B, T, bands]` of each input under the Gaussian window; repeats the edges."""
        padded = F.pad(torch.stack(cells, dim=1).flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
        means = F.conv2d(padded, self.cells[None, None])
        return means.view(-1, len(cells), *cells[0].shape[1:]).unbind(dim=1)

    def _levels(self, wav: Tensor) -> Tensor:
        """Return 10 lg of amplitudes in bands: `[B, S]` -> `[B, T, bands]`."""
        size = len(self.window)
        padded = F.pad(wav.to(self.window.dtype), (size // 2, size // 2))
        powers = power_spectra(padded.unfold(1, size, self.hop_length) * self.window) @ self.shares
        return 5 * (powers + FLOOR).log10()


def _bandwidth(hertz: Tensor) -> Tensor:
    """Return equivalent rectangular bandwidths in hertz.

    Glasberg and Moore (1990), doi:10.1016/0378-5955(90)90170-T.
    """
    return 24.7 + hertz / 9.26449


def _erbs(hertz: Tensor) -> Tensor:
    """Convert hertz to the ERB-rate scale: the number of bandwidths between 0 and a frequency."""
    return 9.26449 * torch.log1p(hertz / (24.7 * 9.26449))


def _hertz(erbs: Tensor) -> Tensor:
    """Convert the ERB-rate scale to hertz, the inverse of `_erbs`."""
    return 24.7 * 9.26449 * torch.expm1(erbs / 9.26449)

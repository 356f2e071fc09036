"""A loss that compares shapes: the similarity of neurograms (NSIM; Hines and Harte 2012,
doi:10.1016/j.specom.2011.09.004), which ViSQOL (arXiv:2004.09584) scores patch by patch.

With gammatone spectrograms r, d(t, b) of reference and decoded audio in frames t of 80 ms, 20 ms apart, and
B bands b at equal distances on the scale of equivalent rectangular bandwidths, as 10 lg of amplitudes; with
means μ, variances σ² and a covariance under a Gaussian window of 3 x 3 cells around each:

    similarity   s(t, b) = (2 μr μd + C1) / (μr² + μd² + C1) · (σrd + ε + C3) / (√(σr² + ε)(σd² + ε) + C3)
    the loss     1 - mean s, over the bands from 150 Hz on, of the frames that are speech; 0 where none is

Mel losses ask for levels, this one for their rise and fall, whatever its size: a decoder that smooths pays
here. C1 is that of the paper, C3 is .1 in place of .00045, so that the gradient of flat patches is not all
there is, and ε of .001 makes it smooth; frames are speech that are within 40 dB of the loudest, and in some
band above -60 dB re full scale; and bits are not to be spent on how hum rises and falls below the voice. A
codec trained with it has been trained on what ViSQOL measures: let other metrics judge it as well.
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
QUIETEST_DB = -60.0  # re full scale: how the noise of a room rises and falls is not to be learned
C1, C3, EPSILON = 1e-4, 0.1, 1e-3
DEVIATION = 0.5  # of the Gaussian window, in cells


class SimilarityLoss(AudioLoss):
    """One minus the neurogram similarity of decoded audio, mean over items; see the module.

    Args: `sample_rate` in hertz, 8000 and up.
    """

    window: Tensor  # [W]: powers of its spectra sum up to those of the windowed frame, over its length
    shares: Tensor  # [W/2 + 1, B]: of the power at each frequency, what a gammatone filter lets through
    counted: Tensor  # [B], sum 1: what a band counts
    cells: Tensor  # [3, 3], sum 1

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
        """0-d loss of audio `[B, C, S]` against `[B, C, S]`, in float32 whatever autocast says."""
        with torch.autocast(decoded.device.type, enabled=False):
            with torch.no_grad():
                reference_levels = self._levels(reference.flatten(0, 1))
                loudest = reference_levels.amax(dim=2)
                quietest = loudest.amax(dim=1, keepdim=True) + SPEECH_DB / 2  # levels are of amplitudes
                speech = loudest >= quietest.clamp(min=QUIETEST_DB / 2)
            dissimilarity = (
                1 - self.similarity(reference_levels, self._levels(decoded.flatten(0, 1))) @ self.counted
            )
            return ((dissimilarity * speech).sum(dim=1) / speech.sum(dim=1).clamp(min=1)).mean()

    def similarity(self, reference: Tensor, decoded: Tensor) -> Tensor:
        """s of levels `[B, T, bands]` and `[B, T, bands]`."""
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
        """Weighted means `[B, T, bands]` around each of the cells `[B, T, bands]`; beyond an edge are those
        at it.
        """
        padded = F.pad(torch.stack(cells, dim=1).flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
        means = F.conv2d(padded, self.cells[None, None])
        return means.view(-1, len(cells), *cells[0].shape[1:]).unbind(dim=1)

    def _levels(self, wav: Tensor) -> Tensor:
        """10 lg of amplitudes in bands: `[B, S]` -> `[B, T, bands]`."""
        size = len(self.window)
        padded = F.pad(wav.to(self.window.dtype), (size // 2, size // 2))
        powers = power_spectra(padded.unfold(1, size, self.hop_length) * self.window) @ self.shares
        return 5 * (powers + FLOOR).log10()


def _bandwidth(hertz: Tensor) -> Tensor:
    """Equivalent rectangular bandwidths in hertz; Glasberg and Moore (1990),
    doi:10.1016/0378-5955(90)90170-T.
    """
    return 24.7 + hertz / 9.26449


def _erbs(hertz: Tensor) -> Tensor:
    """Bandwidths between 0 and a frequency."""
    return 9.26449 * torch.log1p(hertz / (24.7 * 9.26449))


def _hertz(erbs: Tensor) -> Tensor:
    """The inverse of `_erbs`."""
    return 24.7 * 9.26449 * torch.expm1(erbs / 9.26449)

"""Loudness in critical bands, following the perceptual model of ITU-T P.862 (PESQ), §10.2.

Let P(t, b) and R(t, b) be the powers of the decoded and the reference audio in frames t of 32 ms with half
overlap, and in B bands b of equal width on the Bark scale, scaled to one listening level:

    loudness     L(P) = .1866 (2 P0)^γ [(½ + ½ P/P0)^γ - 1]   (Zwicker; P0(b) the threshold in quiet, γ = .23)
    difference   |D| = max(0, |L(P) - L(R)| - ¼ min(L(P), L(R)))             masked differences are ignored
    asymmetry    h = ((P + 50)/(R + 50))^1.2, 0 below 3, 12 at most          additions disturb more
    a frame      d = w (Σ_b D²/B)^½,  d_a = w Σ_b |D| h/B,  w = Barks / ((Σ_b R + 10^5)/10^7)^.04;  45 at most
    an item      root mean sixth powers of 20 frames each, 10 frames apart; the root mean square of these
    the loss     .1 d + .0309 d_a

The loss is the difference of PESQ's raw score from its maximum, 4.5. It omits the time alignment and the
equalization of levels and filters, which PESQ needs for transmitted recordings. Bands and thresholds come
from formulas instead of the tables of the standard. Combine it with another loss, because it ignores
frequencies above 8 kHz and masked differences. It optimizes the quantity that PESQ measures, so evaluate
codecs trained with it with other metrics as well.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from codecvq.losses.interface import AudioLoss
from codecvq.networks.fourier import power_spectra

BANDS = 49
FRAME_S = 0.032
LEVEL_DB = 65.0  # of the reference, over its active frames
QUIETEST_DB = -50.0  # re full scale: a quieter reference is not raised to the full listening level
ACTIVE_DB = -30.0  # re the loudest frame of the item
INTERVAL, STEP = 20, 10  # frames


class LoudnessLoss(AudioLoss):
    """Disturbance of decoded audio, weighted as in P.862, mean over items; see the module.

    Args:
        sample_rate: in hertz, at least 8000.
    """

    window: Tensor  # [W]; scaled so that the powers of a spectrum sum to the mean square
    shares: Tensor  # [W/2 + 1, B]: share of each frequency in each band
    threshold: Tensor  # [B], P0
    exponent: Tensor  # [B], γ, larger below 4 Bark

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        size = 2 * round(FRAME_S * sample_rate / 2)
        window = torch.hann_window(size, dtype=torch.float64)
        self.register_buffer("window", window * (2 / (size * window.square().sum())).sqrt(), persistent=False)
        top = min(sample_rate / 2, 8000.0)
        barks = torch.linspace(_bark(0.0), _bark(top), BANDS + 1, dtype=torch.float64)
        edges = _hertz(barks)
        frequencies = torch.arange(size // 2 + 1, dtype=torch.float64) * sample_rate / size
        half = sample_rate / size / 2
        low, high = (frequencies - half).clamp(min=0), (frequencies + half).clamp(max=sample_rate / 2)
        overlap = torch.minimum(high[:, None], edges[1:]) - torch.maximum(low[:, None], edges[:-1])
        self.register_buffer("shares", overlap.clamp(min=0) / (high - low)[:, None], persistent=False)
        centers = (barks[1:] + barks[:-1]) / 2
        quiet_db = _threshold_db(_hertz(centers) / 1000)
        self.register_buffer("threshold", 10 ** (quiet_db / 10), persistent=False)
        steeper = (6 / (centers.clamp(min=0) + 2)).clamp(1, 2) ** 0.15
        self.register_buffer("exponent", 0.23 * steeper, persistent=False)
        self.barks = float(barks[-1] - barks[0])
        self.to(torch.float32)

    def distance(self, decoded: Tensor, reference: Tensor) -> Tensor:
        """Return the 0-d loss of audio `[B, C, S]` against `[B, C, S]`, in float32 without autocast."""
        with torch.autocast(decoded.device.type, enabled=False):
            symmetric, asymmetric = self.disturbances(decoded.flatten(0, 1), reference.flatten(0, 1))
            return (0.1 * symmetric + 0.0309 * asymmetric).mean()

    def disturbances(self, decoded: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Return d and d_a, `[B]` each, of signals `[B, S]` against references `[B, S]`."""
        reference_powers, decoded_powers = self._powers(reference), self._powers(decoded)
        level_factor = _level_factor(reference_powers)
        reference_powers, decoded_powers = level_factor * reference_powers, level_factor * decoded_powers
        reference_loudness = self._loudness(reference_powers)
        decoded_loudness = self._loudness(decoded_powers)
        difference = decoded_loudness - reference_loudness
        audible = (difference.abs() - torch.minimum(decoded_loudness, reference_loudness) / 4).clamp(min=0)
        asymmetry = ((decoded_powers + 50) / (reference_powers + 50)) ** 1.2
        asymmetry = torch.where(asymmetry < 3, 0.0, asymmetry.clamp(max=12))
        weight = self.barks / ((reference_powers.sum(dim=2) + 1e5) / 1e7) ** 0.04
        symmetric = (audible.square().mean(dim=2) + 1e-12).sqrt()  # smooth at 0
        frames = (symmetric, (audible * asymmetry).mean(dim=2))
        totals = [_pool_over_time((weight * frame).clamp(max=45)) for frame in frames]
        return totals[0], totals[1]

    def _powers(self, wav: Tensor) -> Tensor:
        """Return powers in bands, which sum to the mean square: `[B, S]` -> `[B, T, bands]`."""
        size = len(self.window)
        padded = F.pad(wav.to(self.window.dtype), (size // 2, size // 2))
        return power_spectra(padded.unfold(1, size, size // 2) * self.window) @ self.shares

    def _loudness(self, powers: Tensor) -> Tensor:
        """Return the loudness in sones per Bark, up to a constant: `[B, T, bands]` -> the same shape."""
        ratio = (powers / self.threshold + 1) / 2
        return (0.1866 * (2 * self.threshold) ** self.exponent * (ratio**self.exponent - 1)).clamp(min=0)


def _level_factor(powers: Tensor) -> Tensor:
    """Return the factor `[B, 1, 1]` that scales active frames of `[B, T, bands]` to the listening level."""
    frames = powers.sum(dim=2)
    active = frames >= frames.amax(dim=1, keepdim=True) * 10 ** (ACTIVE_DB / 10)
    mean = (frames * active).sum(dim=1) / active.sum(dim=1)
    return (10 ** (LEVEL_DB / 10) / mean.clamp(min=10 ** (QUIETEST_DB / 10)))[:, None, None]


def _pool_over_time(frames: Tensor) -> Tensor:
    """Pool disturbances of frames to those of items: `[B, T]` -> `[B]`. Pads the last interval with zeros."""
    missing = max(0, INTERVAL - frames.shape[1]) or -(frames.shape[1] - INTERVAL) % STEP
    intervals = F.pad(frames, (0, missing)).unfold(1, INTERVAL, STEP)
    pooled = (intervals + 1e-4).pow(6).mean(dim=2).pow(1 / 6)  # smooth at 0
    return pooled.square().mean(dim=1).sqrt()


def _bark(hertz: float) -> float:
    """Convert hertz to Bark; Traunmüller (1990), doi:10.1121/1.399849, eq. 6."""
    return 26.81 * hertz / (1960 + hertz) - 0.53


def _hertz(barks: Tensor) -> Tensor:
    """Convert Bark to hertz, the inverse of `_bark`."""
    return 1960 * (barks + 0.53) / (26.28 - barks)


def _threshold_db(kilohertz: Tensor) -> Tensor:
    """Return the threshold in quiet in dB SPL, at most 70.

    Terhardt (1979), doi:10.1016/0378-5955(79)90025-X.
    """
    level = 3.64 * kilohertz**-0.8 - 6.5 * torch.exp(-0.6 * (kilohertz - 3.3) ** 2) + 1e-3 * kilohertz**4
    return level.clamp(max=70)

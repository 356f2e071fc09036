"""A loss that hears: loudness in critical bands, after the perceptual model of ITU-T P.862 (PESQ), §10.2.

With powers P(t, b) of decoded audio and R(t, b) of the reference in frames t of 32 ms, half overlapping, and
B bands b of equal width on the Bark scale, all at one listening level:

    loudness     L(P) = .1866 (2 P0)^γ [(½ + ½ P/P0)^γ - 1]   (Zwicker; P0(b) the threshold in quiet, γ = .23)
    difference   |D| = max(0, |L(P) - L(R)| - ¼ min(L(P), L(R)))             what is masked is not heard
    asymmetry    h = ((P + 50)/(R + 50))^1.2, 0 below 3, 12 at most          what is added disturbs more
    a frame      d = w (Σ_b D²/B)^½,  d_a = w Σ_b |D| h/B,  w = Barks / ((Σ_b R + 10^5)/10^7)^.04;  45 at most
    an item      root mean sixth powers of 20 frames each, 10 frames apart; the root mean square of these
    the loss     .1 d + .0309 d_a

which is how far PESQ's raw score falls below its best, 4.5, without what PESQ does for recordings made
elsewhere: alignment in time, equalisation of levels and of filters. Bands and thresholds are formulas and
not the standard's tables. It goes beside another loss, as it hears nothing above 8 kHz and nothing that is
masked. A codec trained with it has been trained on what PESQ measures: let other metrics judge it as well.
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
QUIETEST_DB = -50.0  # re full scale: a reference below this is not brought to the level but stays below
ACTIVE_DB = -30.0  # re the loudest frame of the item
INTERVAL, STEP = 20, 10  # frames


class LoudnessLoss(AudioLoss):
    """Disturbance of decoded audio as P.862 weighs it, mean over items; see the module.

    Args: `sample_rate` in hertz, 8000 and up.
    """

    window: Tensor  # [W]: powers of its spectra sum up to mean squares
    shares: Tensor  # [W/2 + 1, B]: how much of each frequency is in each band
    threshold: Tensor  # [B], P0
    exponent: Tensor  # [B], γ, more below 4 Bark

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
        """0-d loss of audio `[B, C, S]` against `[B, C, S]`, in float32 whatever autocast says."""
        with torch.autocast(decoded.device.type, enabled=False):
            symmetric, asymmetric = self.disturbances(decoded.flatten(0, 1), reference.flatten(0, 1))
            return (0.1 * symmetric + 0.0309 * asymmetric).mean()

    def disturbances(self, decoded: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """d and d_a of each signal, `[B]` each, of `[B, S]` against `[B, S]`."""
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
        """Powers of signals in bands, as parts of mean squares: `[B, S]` -> `[B, T, bands]`."""
        size = len(self.window)
        padded = F.pad(wav.to(self.window.dtype), (size // 2, size // 2))
        return power_spectra(padded.unfold(1, size, size // 2) * self.window) @ self.shares

    def _loudness(self, powers: Tensor) -> Tensor:
        """Sones a Bark, but for a constant: `[B, T, bands]` -> the same."""
        ratio = (powers / self.threshold + 1) / 2
        return (0.1866 * (2 * self.threshold) ** self.exponent * (ratio**self.exponent - 1)).clamp(min=0)


def _level_factor(powers: Tensor) -> Tensor:
    """The factor `[B, 1, 1]` that brings the active frames of `[B, T, bands]` to the listening level."""
    frames = powers.sum(dim=2)
    active = frames >= frames.amax(dim=1, keepdim=True) * 10 ** (ACTIVE_DB / 10)
    mean = (frames * active).sum(dim=1) / active.sum(dim=1)
    return (10 ** (LEVEL_DB / 10) / mean.clamp(min=10 ** (QUIETEST_DB / 10)))[:, None, None]


def _pool_over_time(frames: Tensor) -> Tensor:
    """Disturbances of frames to those of items: `[B, T]` -> `[B]`. An interval that is not full has zeros."""
    missing = max(0, INTERVAL - frames.shape[1]) or -(frames.shape[1] - INTERVAL) % STEP
    intervals = F.pad(frames, (0, missing)).unfold(1, INTERVAL, STEP)
    loudest = (intervals + 1e-4).pow(6).mean(dim=2).pow(1 / 6)  # smooth at 0
    return loudest.square().mean(dim=1).sqrt()


def _bark(hertz: float) -> float:
    """Traunmüller (1990), doi:10.1121/1.399849, eq. 6."""
    return 26.81 * hertz / (1960 + hertz) - 0.53


def _hertz(barks: Tensor) -> Tensor:
    """The inverse of `_bark`."""
    return 1960 * (barks + 0.53) / (26.28 - barks)


def _threshold_db(kilohertz: Tensor) -> Tensor:
    """Sound pressure level of the threshold in quiet, Terhardt (1979), doi:10.1016/0378-5955(79)90025-X;
    70 dB at most.
    """
    level = 3.64 * kilohertz**-0.8 - 6.5 * torch.exp(-0.6 * (kilohertz - 3.3) ** 2) + 1e-3 * kilohertz**4
    return level.clamp(max=70)

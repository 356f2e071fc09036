"""A loss that compares how much log magnitudes vary, not where they are.

What is learned by distance alone comes out near the mean of all that the codes allow: magnitudes are smoother
over frequency and over time than those of speech, and do not sound like a person. In speech synthesis the
variance of features over an utterance, their "global variance", is matched for that (Toda and Tokuda 2007,
doi:10.1093/ietisy/e90-d.5.816). Here it is local. With l = ln |X| of frames of 40 ms, 10 ms apart, and m_n
the mean over n neighbours,

    σ_f = (m_41 (l - m_41 l)² + ε)^½  over frequencies         σ_t  the same over 21 frames
    the loss   mean |σ_f(x̂) - σ_f(x)|  +  mean |σ_t(x̂) - σ_t(x)|

over the frames of the recording that are speech, those within 40 dB of its loudest. It goes beside losses of
distance: noise of the right variance has none of this loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.networks.fourier import power_spectra

FRAME_S = 0.04  # four hops
FREQUENCIES, FRAMES = 41, 21  # of a local mean: 1 kHz, 210 ms
FLOOR = 1e-8  # powers: -80 dB re full scale
SPEECH_DB = -40.0  # re the loudest frame of the item
EPSILON = 1e-2  # so that the gradient of a flat patch is bounded


class SpreadLoss(nn.Module):
    """Difference of local standard deviations of log magnitudes, mean over items; see the module."""

    window: Tensor  # [W], sum 1

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.hop_length = round(FRAME_S / 4 * sample_rate)
        window = torch.hann_window(4 * self.hop_length)
        self.register_buffer("window", window / window.sum(), persistent=False)

    def forward(self, decoded: Tensor, reference: Tensor) -> Tensor:
        """0-d loss of audio `[B, C, S]` against `[B, C, S]`, in float32 whatever autocast says."""
        with torch.autocast(decoded.device.type, enabled=False):
            with torch.no_grad():
                powers = self._powers(reference.float().flatten(0, 1))
                speech = _speech(powers)
                theirs = _deviations(powers)
            ours = _deviations(self._powers(decoded.float().flatten(0, 1)))
            apart = [(a - b).abs().mean(dim=2) for a, b in zip(ours, theirs, strict=True)]  # [B, T] each
            lost = torch.stack(apart).sum(dim=0) * speech
            return (lost.sum(dim=1) / speech.sum(dim=1).clamp(min=1)).mean()

    def _powers(self, wav: Tensor) -> Tensor:
        """`[B, S]` -> `[B, T, F]`."""
        size = len(self.window)
        padded = F.pad(wav, (size // 2, size // 2))
        return power_spectra(padded.unfold(1, size, self.hop_length) * self.window)


def _speech(powers: Tensor) -> Tensor:
    """1 for frames that are speech, else 0: `[B, T, F]` -> `[B, T]`."""
    frames = powers.sum(dim=2)
    loudest = frames.amax(dim=1, keepdim=True)
    return ((frames > loudest * 10 ** (SPEECH_DB / 10)) & (loudest > FLOOR)).float()


def _deviations(powers: Tensor) -> tuple[Tensor, Tensor]:
    """Local standard deviations of log magnitudes over frequency and over time: `[B, T, F]` each."""
    levels = 0.5 * (powers + FLOOR).log()
    over_time = _deviation(levels.mT, FRAMES).mT
    return _deviation(levels, FREQUENCIES), over_time


def _deviation(levels: Tensor, near: int) -> Tensor:
    """Of the `near` values around each, along the last axis: `[B, X, Y]` -> `[B, X, Y]`."""
    rows = levels.flatten(0, 1)[:, None]
    variance = _mean((rows - _mean(rows, near)).square(), near)
    return (variance + EPSILON).sqrt().view_as(levels)


def _mean(rows: Tensor, near: int) -> Tensor:
    """Means over the `near` values around each, of those that there are: `[M, 1, Y]` -> `[M, 1, Y]`."""
    return F.avg_pool1d(rows, near, stride=1, padding=near // 2, count_include_pad=False)

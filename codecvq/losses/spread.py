"""A loss that compares how much log magnitudes vary, not where they are.

What is learned by distance alone comes out near the mean of all that the codes allow: magnitudes are smoother
over frequency and over time than those of speech, and do not sound like a person. Speech synthesis matches
the "global variance" of features over an utterance for that (Toda and Tokuda 2007,
doi:10.1093/ietisy/e90-d.5.816); here it is that of local deviations. With l = ln |X| of frames of 40 ms,
10 ms apart, m_n the mean over n neighbours, and V(b) the mean over band b and the frames of the recording
that are speech,

    V_f(b) = mean (l - m_41 l)²  over frequencies        V_t(b)  the same over 21 frames
    the loss   mean over bands, and over f and t, of  |ln (V(x̂) + ε) - ln (V(x) + ε)| / 2

in bands of half a kilohertz. It is 0 for a signal that varies as much as the recording, wherever it does:
compared cell by cell, what cannot be known from the codes would be learned as its median, too smooth again.
So it goes beside losses of distance.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from codecvq.losses.interface import AudioLoss
from codecvq.networks.fourier import local_mean, power_spectra

FRAME_S = 0.04  # four hops
FREQUENCIES, FRAMES = 41, 21  # of a local mean: 1 kHz, 210 ms
BAND = 20  # frequencies
FLOOR = 1e-8  # powers: -80 dB re full scale
SPEECH_DB = -40.0  # frames that are speech, re the loudest of the item
EPSILON = 1e-2  # of variances, so that the gradient of a flat patch is bounded


class SpreadLoss(AudioLoss):
    """Logarithmic ratio of the spreads of decoded and recorded log magnitudes, mean over items; see the
    module.
    """

    window: Tensor  # [W], sum 1

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.hop_length = round(FRAME_S / 4 * sample_rate)
        window = torch.hann_window(4 * self.hop_length)
        self.register_buffer("window", window / window.sum(), persistent=False)

    def distance(self, decoded: Tensor, reference: Tensor) -> Tensor:
        """0-d loss of audio `[B, C, S]` against `[B, C, S]`, in float32 whatever autocast says."""
        with torch.autocast(decoded.device.type, enabled=False):
            with torch.no_grad():
                powers = self._powers(reference.float().flatten(0, 1))
                speech = _speech(powers)
                reference_spreads = _spreads(powers, speech)
            decoded_spreads = _spreads(self._powers(decoded.float().flatten(0, 1)), speech)
            return 0.5 * (decoded_spreads - reference_spreads).abs().mean()

    def _powers(self, wav: Tensor) -> Tensor:
        """`[B, S]` -> `[B, T, F]`."""
        size = len(self.window)
        padded = F.pad(wav, (size // 2, size // 2))
        return power_spectra(padded.unfold(1, size, self.hop_length) * self.window)


def _speech(powers: Tensor) -> Tensor:
    """1 for frames that are speech, else 0: `[B, T, F]` -> `[B, T, 1]`."""
    frames = powers.sum(dim=2, keepdim=True)
    loudest = frames.amax(dim=1, keepdim=True)
    return ((frames > loudest * 10 ** (SPEECH_DB / 10)) & (loudest > FLOOR)).float()


def _spreads(powers: Tensor, speech: Tensor) -> Tensor:
    """Logarithms of the variances over frequency and over time in bands: `[B, T, F]`, speech `[B, T, 1]` ->
    `[B, 2, bands]`.
    """
    levels = 0.5 * (powers + FLOOR).log()
    squares = [
        (levels - local_mean(levels, FREQUENCIES)).square(),
        (levels - local_mean(levels.mT, FRAMES).mT).square(),
    ]
    whole = powers.shape[2] // BAND * BAND  # the last frequencies are no band
    sums = (torch.stack(squares, dim=1)[..., :whole] * speech[:, None]).sum(dim=2)  # [B, 2, F]
    means = sums.unflatten(2, (-1, BAND)).mean(dim=3) / speech.sum(dim=1)[:, None].clamp(min=1)
    return (means + EPSILON).log()

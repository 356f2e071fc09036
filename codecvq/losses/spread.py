"""A loss on the local variance of log magnitudes, which counters over-smoothing.

A codec that is trained only with distances outputs about the mean of all signals with the same codes. Its
magnitudes are smoother over frequency and time than those of speech and sound unnatural. Speech synthesis
therefore matches the "global variance" of features over an utterance (Toda and Tokuda 2007,
doi:10.1093/ietisy/e90-d.5.816). This loss matches the variance of local deviations. Let l = ln |X| for frames
of 40 ms, 10 ms apart, m_n the mean over n neighbors, and V(b) the mean over band b and over the speech frames
of the reference:

    V_f(b) = mean (l - m_41 l)²  over frequencies        V_t(b)  the same over 21 frames
    the loss   mean over bands, and over f and t, of  |ln (V(x̂) + ε) - ln (V(x) + ε)| / 2

The bands are 500 Hz wide. The loss is 0 for a signal that varies as much as the reference, wherever it
varies. (Comparing each cell would again teach the median of what the codes do not determine, which is too
smooth.) Combine it with distance losses.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from codecvq.losses.interface import AudioLoss
from codecvq.networks.fourier import local_mean, power_spectra

FRAME_S = 0.04  # four hops
FREQUENCIES, FRAMES = 41, 21  # size of the local means: 1 kHz, 210 ms
BAND = 20  # frequencies
FLOOR = 1e-8  # powers: -80 dB re full scale
SPEECH_DB = -40.0  # threshold of speech frames, re the loudest frame of the item
EPSILON = 1e-2  # added to variances, to bound the gradient of flat patches


class SpreadLoss(AudioLoss):
    """Log ratio of the local variances of decoded and recorded log magnitudes, mean over items.

    See the module for the definition.
    """

    window: Tensor  # [W], sum 1

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.hop_length = round(FRAME_S / 4 * sample_rate)
        window = torch.hann_window(4 * self.hop_length)
        self.register_buffer("window", window / window.sum(), persistent=False)

    def distance(self, decoded: Tensor, reference: Tensor) -> Tensor:
        """Return the 0-d loss of audio `[B, C, S]` against `[B, C, S]`, in float32 without autocast."""
        with torch.autocast(decoded.device.type, enabled=False):
            with torch.no_grad():
                powers = self._powers(reference.float().flatten(0, 1))
                speech = _speech(powers)
                reference_spreads = _spreads(powers, speech)
            decoded_spreads = _spreads(self._powers(decoded.float().flatten(0, 1)), speech)
            return 0.5 * (decoded_spreads - reference_spreads).abs().mean()

    def _powers(self, wav: Tensor) -> Tensor:
        """Return power spectra: `[B, S]` -> `[B, T, F]`."""
        size = len(self.window)
        padded = F.pad(wav, (size // 2, size // 2))
        return power_spectra(padded.unfold(1, size, self.hop_length) * self.window)


def _speech(powers: Tensor) -> Tensor:
    """Return 1 for speech frames, else 0: `[B, T, F]` -> `[B, T, 1]`."""
    frames = powers.sum(dim=2, keepdim=True)
    loudest = frames.amax(dim=1, keepdim=True)
    return ((frames > loudest * 10 ** (SPEECH_DB / 10)) & (loudest > FLOOR)).float()


def _spreads(powers: Tensor, speech: Tensor) -> Tensor:
    """Return logarithms of the variances over frequency and over time in bands.

    Powers `[B, T, F]` and speech frames `[B, T, 1]` -> `[B, 2, bands]`.
    """
    levels = 0.5 * (powers + FLOOR).log()
    squares = [
        (levels - local_mean(levels, FREQUENCIES)).square(),
        (levels - local_mean(levels.mT, FRAMES).mT).square(),
    ]
    whole = powers.shape[2] // BAND * BAND  # the last frequencies do not fill a band
    sums = (torch.stack(squares, dim=1)[..., :whole] * speech[:, None]).sum(dim=2)  # [B, 2, F]
    means = sums.unflatten(2, (-1, BAND)).mean(dim=3) / speech.sum(dim=1)[:, None].clamp(min=1)
    return (means + EPSILON).log()

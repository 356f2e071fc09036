"""Complex corrections to the spectra that a source and its filters give.

Few bits and losses of distance make smooth magnitudes, and smooth magnitudes do not sound like a person. The
refiner multiplies each frequency of each frame by e^(a + iφ):

    a = s_f · (l - mean of l over 41 frequencies) + a'(t, f)

with l = ln |S| of the spectra, a spread s_f learned for each frequency, and a' and φ from ConvNeXt blocks.
Its inputs are what the decoder's backbone knows of the frame, l, and the log magnitudes of pulses and of
noise: their rise and fall is like that of speech, and noise gives details that no code tells. All of s, a'
and φ are 0 at the start: a new refiner changes nothing, and training with discriminators begins from the
decoder as it is. (Spectra after a vocoder: arXiv:1904.12088; identity at the start as in arXiv:1901.09321.)

Letters: F frequencies of a frame, X channels of the decoder's backbone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codecvq.networks.fourier import local_mean
from codecvq.networks.spectral.backbone import KERNEL, ConvNeXtBlock

NEAR = 41  # frequencies of a local mean
FLOOR = 1e-5  # of magnitudes before the logarithm
LARGEST = 3.0  # |a'|: 26 dB


class Refiner(nn.Module):
    """Spectra `[B, T, F]` to spectra `[B, T, F]`."""

    def __init__(self, bins: int, context: int, width: int, blocks: int) -> None:
        super().__init__()
        self.embed = nn.Linear(context + 3 * bins, width)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(ConvNeXtBlock(width, 1 / blocks, causal=False) for _ in range(blocks))
        self.norm_out = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2 * bins)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.spread = nn.Parameter(torch.zeros(bins))
        self.reach = blocks * (KERNEL // 2)  # frames on either side

    def forward(
        self, spectra: Tensor, sources: Sequence[Tensor], context: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Corrected spectra of complex `[B, T, F]`, the two `sources` that they are made of, complex `[B, T,
        F]` before they were filtered (B may be 1), the backbone's `[B, T, X]`, and a mask `[B, T]`.
        """
        with torch.autocast(context.device.type, enabled=False):
            levels = _levels(spectra)
            source_levels = [_levels(each).expand_as(levels) for each in sources]
            deviation = levels - local_mean(levels, NEAR)
        features = torch.cat([context, levels, *source_levels], dim=2)
        hidden = self.norm_in(self.embed(features))
        for block in self.blocks:
            hidden = block(hidden, mask)
        log_gain, phase = self.head(self.norm_out(hidden)).chunk(2, dim=2)
        with torch.autocast(context.device.type, enabled=False):
            gain = self.spread * deviation + LARGEST * (log_gain.float() / LARGEST).tanh()
            return spectra * torch.polar(gain.exp(), phase.float())


def _levels(spectra: Tensor) -> Tensor:
    """Natural logarithms of magnitudes: complex `[B, T, F]` -> `[B, T, F]`."""
    power = torch.view_as_real(spectra).square().sum(dim=-1)
    return 0.5 * (power + FLOOR**2).log()

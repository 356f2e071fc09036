"""Complex corrections to the spectra of a source-filter model.

Low bit rates and distance losses give smooth magnitudes, which do not sound natural. The refiner multiplies
each frequency of each frame by e^(a + iφ):

    a = s_f · (l - mean of l over 41 frequencies) + a'(t, f)

with l = ln |S| of the spectra, a spread s_f learned for each frequency, and a' and φ from ConvNeXt blocks.
Its inputs are the channels of the decoder's backbone, l, and the log magnitudes of pulses and of noise. The
latter fluctuate like those of speech, and noise supplies details that no code contains. At initialization s,
a' and φ are 0: a new refiner changes nothing, and training with discriminators starts from the decoder as it
is. (Spectra after a vocoder: arXiv:1904.12088; identity at initialization as in arXiv:1901.09321.)

Letters in shapes: F frequencies of a frame, X channels of the decoder's backbone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codecvq.networks.fourier import local_mean
from codecvq.networks.spectral.backbone import KERNEL, ConvNeXtBlock

NEAR = 41  # frequencies per local mean
FLOOR = 1e-5  # smallest magnitude before the logarithm
LARGEST = 3.0  # upper bound of |a'|: 26 dB


class Refiner(nn.Module):
    """Corrects spectra `[B, T, F]` by a complex factor for each element."""

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
        """Return corrected spectra, complex `[B, T, F]`.

        Args:
            spectra: Spectra to correct, complex `[B, T, F]`.
            sources: The two sources of which they are made, before filtering, complex `[B, T, F]`; B may be
                1.
            context: Output of the decoder's backbone, `[B, T, X]`.
            mask: Padding mask, bool `[B, T]`.
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
    """Return natural logarithms of magnitudes: complex `[B, T, F]` -> `[B, T, F]`."""
    power = torch.view_as_real(spectra).square().sum(dim=-1)
    return 0.5 * (power + FLOOR**2).log()

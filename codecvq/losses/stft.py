"""The multi-resolution STFT loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codecvq.losses.windows import WindowsLoss

FLOOR = 1e-5  # of magnitudes before the logarithm


class StftLoss(WindowsLoss):
    """Multi-resolution STFT loss (arXiv:1910.11480 §2.2).

    It is, for each window and item, with magnitudes M of the reference and M̂ of the decoded audio,

        |M - M̂|_F / |M|_F  +  mean |ln M - ln M̂|

    Magnitudes are divided by the sum of the window, so that a sine of amplitude 1 has about 1/2.
    The floor of the logarithm is -100 dB.

    Args:
        windows: window sizes in samples; the hop is a quarter of each.
    """

    name = "stft"

    def __init__(self, sample_rate: int, windows: Sequence[int] = (512, 1024, 2048)) -> None:
        super().__init__(windows)

    def item_losses(self, decoded: Tensor, reference: Tensor, size: int) -> Tensor:
        """Return losses `[B]` of audio `[B, C, S]` against `[B, C, S]` under the window of `size` samples."""
        magnitudes = self._magnitudes(decoded, size)
        with torch.no_grad():
            target = self._magnitudes(reference, size)
        convergence = (target - magnitudes).norm(dim=1) / target.norm(dim=1)
        return convergence + (magnitudes.log() - target.log()).abs().mean(dim=1)

    def _magnitudes(self, wav: Tensor, size: int) -> Tensor:
        scale = 1 / self.get_buffer(f"window_{size}").sum()
        return (self.powers(scale * wav, size) + FLOOR**2).sqrt().flatten(1)

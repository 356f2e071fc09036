"""A loss on complex spectra."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codecvq.losses.windows import WindowsLoss

FLOOR = 1e-5  # of magnitudes; avoids division by 0 for silence


class ComplexStftLoss(WindowsLoss):
    """Distance of complex spectra, including phases: sqrt(Σ |X - X̂|² / Σ |X|²) for each window and item.

    Args:
        windows: window sizes in samples; the hop is a quarter of each.
    """

    name = "complex_stft"

    def __init__(self, sample_rate: int, windows: Sequence[int] = (512, 1024, 2048)) -> None:
        super().__init__(windows)

    def item_losses(self, decoded: Tensor, reference: Tensor, size: int) -> Tensor:
        """Return losses `[B]` of audio `[B, C, S]` against `[B, C, S]` under the window of `size` samples.

        The transform is linear, so only the spectrum of the difference is computed.
        """
        with torch.no_grad():
            energy = self._energy(reference, size)
        difference = self._energy(decoded - reference, size)
        return ((difference + FLOOR**2) / (energy + FLOOR**2)).sqrt()

    def _energy(self, wav: Tensor, size: int) -> Tensor:
        return self.powers(wav, size).flatten(1).sum(dim=1)

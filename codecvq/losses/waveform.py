"""A loss on samples."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from codecvq.losses.interface import AudioLoss
from codecvq.losses.windows import at_least_float32


class WaveformLoss(AudioLoss):
    """Mean absolute difference of samples."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()

    def distance(self, decoded: Tensor, reference: Tensor) -> Tensor:
        """Return the 0-d loss of audio `[B, C, S]` against `[B, C, S]`."""
        return F.l1_loss(at_least_float32(decoded), at_least_float32(reference))

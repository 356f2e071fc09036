"""A loss that compares features of a frozen teacher for decoded and recorded audio.

It is the perceptual loss of Johnson et al. (arXiv:1603.08155 §3.2) with a speech model as teacher. The
gradient flows through the teacher to the decoded audio.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from codecvq.losses.feature_distance import Distance, feature_distance
from codecvq.losses.interface import AudioLoss
from codecvq.losses.teacher import build_teacher


class FeatureReconstructionLoss(AudioLoss):
    """Distance of the teacher's features of decoded audio from those of recorded audio, mean over items.

    Args:
        teacher: a name, or a mapping with `name` and options.
        distance: see `codecvq.losses.feature_distance`.
    """

    def __init__(self, sample_rate: int, teacher: str | Mapping[str, Any], distance: Distance = "l1") -> None:
        super().__init__()
        self.kind = distance
        self.teacher = build_teacher(teacher, sample_rate=sample_rate)

    def distance(self, decoded: Tensor, reference: Tensor) -> Tensor:
        """Return the 0-d loss of audio `[B, C, S]` against `[B, C, S]`, in float32 without autocast."""
        with torch.autocast(decoded.device.type, enabled=False):
            with torch.no_grad():
                target = self.teacher.features(reference.float())
            return feature_distance(self.kind, self.teacher.features(decoded.float()), target).mean()

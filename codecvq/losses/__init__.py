"""Losses between the reference and the decoded audio."""

from codecvq.losses.losses import (
    ComplexStftLoss,
    LossConfig,
    MelLoss,
    StftLoss,
    WaveformLoss,
    build_losses,
)
from codecvq.losses.loudness import LoudnessLoss
from codecvq.losses.similarity import SimilarityLoss
from codecvq.losses.spread import SpreadLoss

__all__ = [
    "ComplexStftLoss",
    "LossConfig",
    "LoudnessLoss",
    "MelLoss",
    "SimilarityLoss",
    "SpreadLoss",
    "StftLoss",
    "WaveformLoss",
    "build_losses",
]

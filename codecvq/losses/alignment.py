"""Resampling features of a teacher model to the frames of a codec, for any two frame rates.

Let f(k) be the feature of teacher frame k, u_k the center of this frame in seconds, t the center of a codec
frame in seconds, and h the longer of the two frame periods. Then

    aligned(t) = Σ_k w(t, k) f(k) / Σ_k w(t, k),      w(t, k) = max(0, 1 - |t - u_k| / h)

This is linear interpolation if the codec has the higher frame rate, and a triangular mean over two codec
frames if it has the lower one (like the pooling from 50 to 12.5 Hz in Mimi, arXiv:2410.00037). Before the
first and after the last teacher frame, the feature is that of the nearest frame. Times are computed
from exact fractions and rounded once, to float64.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from codecvq.losses.teacher import Teacher
from codecvq.transfer import to_device


class Alignment:
    """Aligns features of `teacher` to the frames of a codec (sample rate in Hz, hop length in samples)."""

    def __init__(self, teacher: Teacher, sample_rate: int, hop_length: int) -> None:
        self.teacher = teacher
        self.period_s = Fraction(hop_length, sample_rate)
        self._cached_weights: tuple[tuple[int, int, torch.device], Tensor] | None = None

    def __call__(self, features: Tensor, frames: int) -> Tensor:
        """Resample teacher features `[B, F, K]` to codec frames `[B, F, T]` with T = `frames`."""
        key = (features.shape[2], frames, features.device)
        if self._cached_weights is None or self._cached_weights[0] != key:
            self._cached_weights = (key, to_device(self.weights(features.shape[2], frames), features.device))
        return features @ self._cached_weights[1]

    def weights(self, count: int, frames: int) -> Tensor:
        """Return the weights `[K, T]` of K = `count` teacher frames at T = `frames` codec frames.

        Each column sums to 1.
        """
        teacher_period_s = 1 / self.teacher.frame_rate
        longer_s = max(teacher_period_s, self.period_s)
        first = self.teacher.first_s / longer_s
        times = _arithmetic_sequence(self.period_s / 2 / longer_s, self.period_s / longer_s, frames)
        centers = _arithmetic_sequence(first, teacher_period_s / longer_s, count)
        times = times.clamp(centers[0], centers[-1])
        weights = (1 - (centers[:, None] - times).abs()).clamp(min=0)
        return (weights / weights.sum(dim=0)).float()


def _arithmetic_sequence(first: Fraction, step: Fraction, count: int) -> Tensor:
    """Return `first + n * step` for n in `range(count)`, each rounded once: float64 `[count]`."""
    common = first.denominator * step.denominator
    start, by = int(first * common), int(step * common)
    return (start + by * torch.arange(count, dtype=torch.int64)).double() / common

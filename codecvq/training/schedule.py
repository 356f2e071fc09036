"""Learning rate schedule."""

from __future__ import annotations

import math

from codecvq.training.recipe import OptimizerSection


def learning_rate(config: OptimizerSection, step: int, steps: int) -> float:
    """Learning rate of step `step` of `steps`: linear warm-up, then cosine decay to `final_ratio`."""
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    progress = max(0.0, (step - config.warmup_steps) / max(1, steps - config.warmup_steps))
    fall = config.final_ratio + (1 - config.final_ratio) * (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * warm * fall

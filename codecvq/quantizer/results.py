"""Results of quantizers (`Quantized`, `Terms`), and the training progress (`Progress`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Quantized:
    """Output of a quantizer for latents `[B, D, T]`."""

    latents: Tensor  # [B, D, T], with gradient; 0 at padding
    codes: Tensor  # [B, n, T] int64; 0 at padding
    losses: dict[str, Tensor]  # name -> weighted 0-d tensor; detached in eval mode
    metrics: dict[str, Tensor]  # name -> detached 0-d tensor; "perplexity/1" belongs to codebook 1
    active: Tensor | None = None  # [B, n, T] bool: False at padding and dropped codes; None: all active
    #: What each codebook adds to the latents, `[B, D, T]` each, with its own gradient. None unless `forward`
    #: is called with `parts=True` and the quantizer is a sum over its codebooks.
    parts: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class Terms:
    """Losses (weighted 0-d tensors) and metrics (0-d tensors) of one batch of vectors."""

    losses: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """Training progress in optimizer steps."""

    step: int = 0  # optimizer steps done
    steps: int | None = None  # total number; None: unknown

    @property
    def fraction(self) -> float:
        """Fraction of the steps that are done, from 0 to 1; 0 if the number of steps is unknown."""
        return min(1.0, self.step / self.steps) if self.steps else 0.0

"""What quantizers give: `Quantized` to their users, `Terms` to the engine; and `Progress`, which they get."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Quantized:
    """What a quantizer makes of latents."""

    latents: Tensor  # [B, D, T], carries the gradient; zero at padding
    codes: Tensor  # [B, n, T] int64; zero at padding
    losses: dict[str, Tensor]  # name -> weighted 0-d tensor to add; detached in eval
    metrics: dict[str, Tensor]  # name -> detached 0-d tensor; "perplexity/1" is that of codebook 1
    active: Tensor | None = None  # [B, n, T] bool: what dropout kept, False at padding; None: it kept all
    #: what each codebook adds to the latents, `[B, D, T]`, where `forward` is asked for them and the
    #: quantizer is a sum over its codebooks; None elsewhere. Each has the gradient that it has alone.
    parts: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class Terms:
    """Losses (0-d, weighted) and metrics (0-d) of one batch of vectors."""

    losses: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """How far a training is."""

    step: int = 0  # optimizer steps made so far
    steps: int | None = None  # in all; None: not known

    @property
    def fraction(self) -> float:
        """From 0 at the first step to 1 at the last; 0 where the number of steps is not known."""
        return min(1.0, self.step / self.steps) if self.steps else 0.0

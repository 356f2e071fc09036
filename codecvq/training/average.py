"""Moving average of the weights (Polyak averaging), used for validation, evaluation and saved codecs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Average a <- d a + (1 - d) w after every step n, with d = min(`decay`, (1 + n) / (10 + n)).

    Averages only trainable parameters. Buffers are unchanged; EMA codebooks, for instance, are averages
    already.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.weights = {name: weight.detach().clone() for name, weight in self._trainable()}
        device = next(iter(self.weights.values())).device
        self.steps = torch.zeros((), dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, counts: Tensor) -> None:
        """Add the current weights to the average if the step `counts` (0-d bool)."""
        self.steps += counts
        rising = (1 + self.steps) / (10 + self.steps)
        share = (1 - rising.clamp(max=self.decay)) * counts
        now = [weight.detach() for _, weight in self._trainable()]
        torch._foreach_lerp_(list(self.weights.values()), now, [share] * len(now))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context in which the module has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, object]:
        """State for a checkpoint."""
        return {"steps": int(self.steps), "weights": self.weights}

    def load(self, state: Mapping[str, object]) -> None:
        """Load a state returned by `state`."""
        assert isinstance(state["steps"], int)
        assert isinstance(state["weights"], dict)
        self.steps.fill_(state["steps"])
        for name, weight in state["weights"].items():
            self.weights[name].copy_(weight)

    def _trainable(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, weight) for name, weight in self.module.named_parameters() if weight.requires_grad]

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self._trainable():
            averaged: Tensor = self.weights[name]
            current = weight.detach().clone()
            weight.copy_(averaged)
            averaged.copy_(current)

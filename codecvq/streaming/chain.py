"""`Chain`: streaming modules in sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codecvq.streaming.module import StreamingModule
from codecvq.streaming.state import State, state_of


class Chain(StreamingModule):
    """Streaming modules in sequence: the output of each is the input of the next."""

    def __init__(self, modules: Sequence[StreamingModule]) -> None:
        self.modules = tuple(modules)

    def start(self, device: torch.device) -> State:
        """Return the states of all modules."""
        return {str(n): module.start(device) for n, module in enumerate(self.modules)}

    def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Pass a block through all modules."""
        states: State = {}
        for n, module in enumerate(self.modules):
            own = state_of(state, str(n))
            if block.shape[2] or last:
                block, own = module.step(block, own, last)
            states[str(n)] = own
        return block, states

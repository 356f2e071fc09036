"""`StreamingModule`: a module that processes a recording block by block.

Letters: B streams, X and Y channels, n and m numbers of input and output elements (samples or frames).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.streaming.state import State

#: Matrix products of fewer rows add up in another order on CPUs, so that codes would depend on the size of
#: blocks. Blocks are therefore padded to this number of rows, which hardly takes longer: the time of such
#: small products is the time to read the weights.
MIN_ROWS = 16


class StreamingModule(ABC):
    """A module with a state that processes a recording block by block.

    The outputs of all steps together equal the output for the whole recording, for any partition into
    blocks. Each step returns the output that is determined by the input up to now.
    """

    @abstractmethod
    def start(self, device: torch.device) -> State:
        """Return the state of one new stream."""

    @abstractmethod
    def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Process one block of each stream.

        Args:
            block: `[B, X, n]`. If n is 0, X can be any number.
            state: State of the B streams. The step does not change it in place.
            last: Whether the recording ends with this block.

        Returns the output `[B, Y, m]` and the new state. If m is 0, Y can be any number. With `last` the
        state is meaningless.
        """


class FramewiseModule(StreamingModule):
    """A function without context: each output element depends only on the input element at its position.

    Args:
        function: Maps `[B, X, n]` to `[B, Y, n]`, for n ≥ 1.
        products: Whether the function contains matrix products. Then blocks are padded to `MIN_ROWS`.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], products: bool = False) -> None:
        self.function, self.products = function, products

    def start(self, device: torch.device) -> State:
        """Return an empty state."""
        return {}

    def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Apply the function to the block."""
        count = block.shape[2]
        if not count:
            return block, state
        if self.products and count < MIN_ROWS:
            return self.function(F.pad(block, (0, MIN_ROWS - count)))[:, :, :count], state
        return self.function(block), state


def append(buffer: Tensor, block: Tensor) -> Tensor:
    """Return a buffer `[B, X, k]` with a block after it. If one has no elements, its X can be any number."""
    if not block.shape[2]:
        return buffer
    return torch.cat([buffer, block], dim=2) if buffer.shape[2] else block


def exact_stream(module: nn.Module) -> StreamingModule | None:
    """Return the stream of `module.as_stream()`; None if the module has no such method."""
    as_stream: Callable[[], StreamingModule | None] | None = getattr(module, "as_stream", None)
    return None if as_stream is None else as_stream()

"""`Streams`: several independent streams through one streaming module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codecvq.streaming.module import StreamingModule
from codecvq.streaming.state import State, join, separate, signature


class Streams:
    """Independent streams through one module. Streams in the same situation are computed as one batch.

    Streams are in the same situation if their blocks have the same length, all or none of them end, and their
    states have the same shapes.
    """

    def __init__(self, module: StreamingModule) -> None:
        self.module = module

    def step(
        self, blocks: Sequence[Tensor], states: Sequence[State], last: Sequence[bool]
    ) -> tuple[list[Tensor], list[State]]:
        """Process one block `[1, X, n]` of each stream; n can differ.

        Returns the outputs `[1, Y, m]` and the new states.
        """
        outputs: list[Tensor] = list(blocks)
        new_states: list[State] = list(states)
        for members in _groups(blocks, states, last):
            output, state = self.module.step(
                torch.cat([blocks[index] for index in members]) if len(members) > 1 else blocks[members[0]],
                join([states[index] for index in members]),
                last[members[0]],
            )
            for index, own_output, own_state in zip(
                members, output.split(1), separate(state, len(members)), strict=True
            ):
                outputs[index], new_states[index] = own_output, own_state
        return outputs, new_states


def _groups(blocks: Sequence[Tensor], states: Sequence[State], last: Sequence[bool]) -> list[list[int]]:
    """Return the indices of the streams that can be computed together."""
    if len(blocks) == 1:
        return [[0]]
    groups: dict[object, list[int]] = {}
    for index, (block, state) in enumerate(zip(blocks, states, strict=True)):
        key = (block.shape[2], last[index], signature(state))
        groups.setdefault(key, []).append(index)
    return list(groups.values())

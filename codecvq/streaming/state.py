"""States of streams: nested mappings of tensors and numbers.

Tensors have one row per stream: `[B, ...]`. Numbers are equal for all streams of a state, such as the number
of frames in a buffer. Steps never change a tensor of a state in place; they return new states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from codecvq.errors import ShapeError

State: TypeAlias = "dict[str, Tensor | int | State]"


def tensor_of(state: State, name: str) -> Tensor:
    """Return the tensor `name` of a state."""
    value = state[name]
    assert isinstance(value, Tensor), f"{name} of a stream's state is not a tensor"
    return value


def number_of(state: State, name: str) -> int:
    """Return the number `name` of a state."""
    value = state[name]
    assert isinstance(value, int), f"{name} of a stream's state is not a number"
    return value


def state_of(state: State, name: str) -> State:
    """Return the state `name` inside a state."""
    value = state[name]
    assert isinstance(value, dict), f"{name} of a stream's state is not a state"
    return value


def signature(state: State) -> tuple[Any, ...]:
    """Return shapes and numbers of a state. States with equal signatures can be joined."""
    return tuple(
        (name, signature(value))
        if isinstance(value, dict)
        else (name, tuple(value.shape[1:]) if isinstance(value, Tensor) else value)
        for name, value in sorted(state.items())
    )


def join(states: Sequence[State]) -> State:
    """Return the state of all streams of `states`, which have equal signatures."""
    if len(states) == 1:
        return states[0]
    joined: State = {}
    for name, value in states[0].items():
        values = [state[name] for state in states]
        if isinstance(value, dict):
            joined[name] = join(values)  # type: ignore[arg-type]
        else:
            joined[name] = torch.cat(values) if isinstance(value, Tensor) else value  # type: ignore[arg-type]
    return joined


def separate(state: State, count: int) -> list[State]:
    """Return the states of the `count` streams of `state`; the inverse of `join`."""
    if count == 1:
        return [state]
    separated: list[State] = [{} for _ in range(count)]
    for name, value in state.items():
        parts: Sequence[Any] = [value] * count
        if isinstance(value, dict):
            parts = separate(value, count)
        elif isinstance(value, Tensor):
            parts = value.split(1)
        for own, part in zip(separated, parts, strict=True):
            own[name] = part
    return separated


def rows(state: State, name: str, count: int) -> Tensor:
    """Return the tensor `name` of a state with `count` rows; a tensor with one row is repeated."""
    value = state[name]
    assert isinstance(value, Tensor)
    return value.expand(count, *value.shape[1:])


def map_tensors(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Return the state with `function` of each tensor."""
    return {
        name: map_tensors(function, value)
        if isinstance(value, dict)
        else (function(value) if isinstance(value, Tensor) else value)
        for name, value in state.items()
    }


def flatten(state: State, prefix: str = "") -> Iterator[tuple[str, Tensor | int]]:
    """Yield each tensor and number with the path of its names, joined by dots."""
    for name, value in state.items():
        if isinstance(value, dict):
            yield f"{prefix}{name}.", 0
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@dataclass(frozen=True)
class StreamState:
    """State of all streams of a `StreamEncoder` or `StreamDecoder`.

    It can be copied, moved to another device, and converted to and from a flat mapping of tensors, which
    `torch.save` and safetensors can store. It belongs to one codec.
    """

    streams: tuple[State, ...]  # of one stream each

    def clone(self) -> StreamState:
        """Return a copy that shares no memory with this state."""
        return StreamState(tuple(map_tensors(Tensor.clone, state) for state in self.streams))

    def to(self, device: torch.device | str) -> StreamState:
        """Return the state on another device."""
        return StreamState(
            tuple(map_tensors(lambda tensor: tensor.to(device), state) for state in self.streams)
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return all tensors under flat names. Numbers are 0-d int64 tensors."""
        return {
            f"{index}.{path}": value.contiguous() if isinstance(value, Tensor) else torch.tensor(value)
            for index, state in enumerate(self.streams)
            for path, value in flatten(state)
        }

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor]) -> StreamState:
        """Return the state whose `state_dict` is `tensors`. Raises ShapeError for other mappings."""
        streams: dict[str, State] = {}
        for path, tensor in tensors.items():
            stream, _, rest = path.partition(".")
            *folders, name = rest.split(".")
            target = streams.setdefault(stream, {})
            for folder in folders:
                inner = target.setdefault(folder, {})
                if not isinstance(inner, dict):
                    raise ShapeError(f"the state has both {folder!r} and entries inside it, at {path!r}.")
                target = inner
            if name:
                target[name] = tensor if tensor.ndim else int(tensor)
        if sorted(streams) != sorted(str(index) for index in range(len(streams))):
            raise ShapeError(
                f"the state has the streams {sorted(streams)[:5]}; needed are 0, 1, 2, … Pass the result of "
                "StreamState.state_dict()."
            )
        return cls(tuple(streams[str(index)] for index in range(len(streams))))

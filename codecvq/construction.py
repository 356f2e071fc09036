"""Limits on memory while modules are built from untrusted options.

A few characters of a configuration can request a billion layers or a table of a terabyte.
`construction_limits` stops such a construction at the first parameter, buffer or intermediate tensor beyond
its limits, before memory is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from codecvq.errors import OptionError

GIB = 1 << 30
BYTES = 4  # per element, assuming float32


@dataclass(frozen=True)
class Limits:
    """The most that a construction may use."""

    weights_bytes: int = 16 * GIB  # of all parameters and buffers
    tensors: int = 4000  # parameters and buffers
    modules: int = 20_000
    tensor_bytes: int = 4 * GIB  # of a single tensor, including intermediate ones


@contextmanager
def construction_limits(limits: Limits, what: str) -> Iterator[None]:
    """Context manager: raises OptionError if the modules built in the block exceed `limits`.

    `what` names the modules in the error.
    """
    count = _Count(limits, what)
    with ExitStack() as stack:
        stack.callback(register_module_parameter_registration_hook(count.tensor).remove)
        stack.callback(register_module_buffer_registration_hook(count.tensor).remove)
        stack.callback(register_module_module_registration_hook(count.module).remove)
        stack.enter_context(_Allocations(limits, what))
        try:
            yield
        except (MemoryError, OverflowError) as error:
            raise _too_large(what, "more than the memory of this machine") from error
        except RuntimeError as error:  # torch raises it when an allocation fails
            if "memory" not in str(error) and "overflow" not in str(error):
                raise
            raise _too_large(what, "more than the memory of this machine") from error


class _Count:
    """Counts registered tensors and modules; raises OptionError beyond the limits."""

    def __init__(self, limits: Limits, what: str) -> None:
        self.limits, self.what = limits, what
        self.bytes = self.tensors = self.modules = 0

    def tensor(self, module: nn.Module, name: str, tensor: Tensor | None) -> None:
        """Hook that torch calls before it registers a parameter or buffer."""
        if tensor is None:
            return
        self.tensors += 1
        self.bytes += tensor.numel() * tensor.element_size()
        if self.tensors > self.limits.tensors:
            raise _too_large(self.what, f"more than {self.limits.tensors:,} parameters and buffers")
        if self.bytes > self.limits.weights_bytes:
            raise _too_large(self.what, f"more than {self.limits.weights_bytes:,} bytes of weights")

    def module(self, module: nn.Module, name: str, inner: nn.Module | None) -> None:
        """Hook that torch calls before it registers a submodule."""
        self.modules += 1
        if self.modules > self.limits.modules:
            raise _too_large(self.what, f"more than {self.limits.modules:,} modules")


class _Allocations(TorchDispatchMode):
    """Raises OptionError before an operation runs whose result would exceed `tensor_bytes`."""

    def __init__(self, limits: Limits, what: str) -> None:
        super().__init__()
        self.limits, self.what = limits, what

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # Any: depends on the operation
        if _num_elements(args) * BYTES > self.limits.tensor_bytes:
            raise _too_large(self.what, f"a tensor of more than {self.limits.tensor_bytes:,} bytes")
        return func(*args, **(kwargs or {}))


def _num_elements(args: tuple[Any, ...]) -> int:
    """Estimate the number of elements of the result of an operation from its arguments.

    Uses the sizes among the arguments if there are any, else the broadcast shape of the operands. The result
    of some operations, such as `cat` and `repeat`, is larger.
    """
    first = args[0] if args else None
    if isinstance(first, (list, tuple)) and all(isinstance(size, int) for size in first):
        return math.prod(first)  # empty, zeros, full
    numbers = [abs(number) for number in args[:3] if isinstance(number, (int, float))]
    if numbers and not isinstance(first, Tensor):
        return int(max(numbers)) if math.isfinite(max(numbers)) else 0  # arange, linspace, hann_window
    shapes = [arg.shape for arg in args if isinstance(arg, Tensor)]
    return math.prod(max(sizes) for sizes in _aligned_sizes(shapes))


def _aligned_sizes(shapes: list[torch.Size]) -> Iterator[list[int]]:
    """Yield the operands' sizes of each axis, from the last axis to the first."""
    for axis in range(1, max(map(len, shapes), default=0) + 1):
        yield [shape[-axis] for shape in shapes if len(shape) >= axis]


def _too_large(what: str, why: str) -> OptionError:
    return OptionError(f"{what} is too large to be built: {why}. Check its options.")

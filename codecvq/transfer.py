"""Devices, and transfers between the processor and an accelerator that do not make the processor wait.

A GPU works through a queue of kernels. `float(tensor)`, `bool(tensor)`, `nonzero` and an ordinary copy wait
until the queue is empty; the GPU is then idle until the processor has filled the queue again. Training code
uses the functions of this module instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codecvq.errors import OptionError


def usable_device(name: str | torch.device) -> torch.device:
    """The device of that name. Raises OptionError where there is none, or it cannot compute here."""
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise OptionError(
            f"device is {str(name)[:60]!r}, which torch does not know. Give cpu, cuda, cuda:1 or mps."
        ) from error
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # each backend has its own
        reason = str(error).splitlines()[0][:120]
        raise OptionError(f"device {str(device)!r} cannot be used here ({reason}). Give cpu.") from error
    return device


def reads_without_sync(device: torch.device) -> bool:
    """Whether reading a value of a tensor on `device` costs no wait and breaks no compiled graph."""
    return device.type == "cpu" and not torch.compiler.is_compiling()


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor`, made on the CPU, on `device`. The copy to a GPU is queued, from pinned memory."""
    if device.type != "cuda" or tensor.is_cuda or torch.compiler.is_compiling():
        return tensor.to(device)  # a graph cannot hold pinned memory
    return tensor.pin_memory().to(device, non_blocking=True)


class AsyncScalar:
    """A scalar on its way to the processor.

    `value()` returns None while the copy is queued, and the number once it has arrived.
    """

    def __init__(self, scalar: Tensor) -> None:
        self._scalar = scalar.detach().to("cpu", non_blocking=True)
        self._arrived: torch.cuda.Event | None = None
        if scalar.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(scalar.device))

    def value(self) -> float | None:
        """The number, or None where it has not arrived."""
        if self._arrived is not None and not self._arrived.query():
            return None
        return float(self._scalar)

"""Devices, and transfers between CPU and GPU that do not synchronize.

A GPU processes a queue of kernels. `float(tensor)`, `bool(tensor)`, `nonzero` and a blocking copy
synchronize: the CPU waits until the queue is empty, and the GPU is then idle until the CPU queues new
kernels. Training code uses the functions of this module instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codecvq.errors import OptionError


def usable_device(name: str | torch.device) -> torch.device:
    """Return the device of that name. Raises OptionError if the name is unknown or the device unusable."""
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise OptionError(
            f"device is {str(name)[:60]!r}, which is not a torch device. Give cpu, cuda, cuda:1 or mps."
        ) from error
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # depends on the backend
        reason = str(error).splitlines()[0][:120]
        raise OptionError(
            f"device {str(device)!r} cannot be used on this machine ({reason}). Give cpu."
        ) from error
    return device


def reads_without_sync(device: torch.device) -> bool:
    """Whether reading a tensor value on `device` neither synchronizes nor breaks a compiled graph."""
    return device.type == "cpu" and not torch.compiler.is_compiling()


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU `tensor` to `device`. A copy to a GPU is asynchronous, from pinned memory."""
    if device.type != "cuda" or tensor.is_cuda or torch.compiler.is_compiling():
        return tensor.to(device)  # a compiled graph cannot contain pinned memory
    return tensor.pin_memory().to(device, non_blocking=True)


class AsyncScalar:
    """Asynchronous copy of a scalar to the CPU."""

    def __init__(self, scalar: Tensor) -> None:
        self._scalar = scalar.detach().to("cpu", non_blocking=True)
        self._arrived: torch.cuda.Event | None = None
        if scalar.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(scalar.device))

    def value(self) -> float | None:
        """Return the number, or None while the copy is not complete. Does not synchronize."""
        if self._arrived is not None and not self._arrived.query():
            return None
        return float(self._scalar)

"""Description of the machine of an evaluation, as context for real-time factors."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codecvq.processor import processor_name

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Machine:
    """Processor, device and threads of an evaluation."""

    processor: str
    device: str  # "cpu", or the name of the GPU
    threads: int  # intra-op threads of torch
    system: str
    python: str


def this_machine(device: torch.device) -> Machine:
    """Return the current machine; `device` is the device of the codec."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    system = f"{platform.system()} {platform.machine()}"
    return Machine(processor_name(), name, torch.get_num_threads(), system, platform.python_version())

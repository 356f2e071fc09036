"""What an evaluation ran on: without it a real-time factor says nothing."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codecvq.processor import processor_name

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Machine:
    """The processor and device of an evaluation, and the threads it had."""

    processor: str
    device: str  # "cpu", or the name of the GPU
    threads: int  # of torch, within an operation
    system: str
    python: str


def this_machine(device: torch.device) -> Machine:
    """The machine that this process runs on, with `device` of the codec."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    system = f"{platform.system()} {platform.machine()}"
    return Machine(processor_name(), name, torch.get_num_threads(), system, platform.python_version())

"""What the processor of this machine is. Linux says it in /proc/cpuinfo only."""

from __future__ import annotations

import platform
from pathlib import Path


def processor_name() -> str:
    """The processor's name, as "AMD EPYC 7763 64-Core"; elsewhere than on Linux what Python knows."""
    names = _values("model name")
    return names[0] if names else platform.processor() or platform.machine()


def processor_flags() -> set[str]:
    """Names of sets of instructions that the processor has, as "amx_bf16"; empty where they are not known."""
    return {flag for value in (*_values("flags"), *_values("features")) for flag in value.split()}


def _values(name: str) -> list[str]:
    """The values of a field, one for each processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return []
    fields = (line.partition(":") for line in lines)
    return [value.strip() for key, _, value in fields if key.strip().lower() == name]

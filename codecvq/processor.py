"""Name and instruction sets of the CPU, read from /proc/cpuinfo on Linux."""

from __future__ import annotations

import platform
from pathlib import Path


def processor_name() -> str:
    """Return the CPU's name, for example "AMD EPYC 7763 64-Core"; outside Linux `platform.processor()`."""
    names = _values("model name")
    return names[0] if names else platform.processor() or platform.machine()


def processor_flags() -> set[str]:
    """Return the CPU's instruction sets, for example "amx_bf16"; empty if they are unknown."""
    return {flag for value in (*_values("flags"), *_values("features")) for flag in value.split()}


def _values(name: str) -> list[str]:
    """Return the values of a field of /proc/cpuinfo, one for each processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return []
    fields = (line.partition(":") for line in lines)
    return [value.strip() for key, _, value in fields if key.strip().lower() == name]

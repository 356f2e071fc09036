"""Builds modules of encodec with the current weight normalization of torch.

The old one logs warnings and cannot be deep-copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def parametrized_norm() -> Iterator[None]:
    """Context manager in which encodec's modules use `torch.nn.utils.parametrizations.weight_norm`."""
    import encodec.modules.conv as conv

    old = conv.weight_norm
    conv.weight_norm = torch.nn.utils.parametrizations.weight_norm
    try:
        yield
    finally:
        conv.weight_norm = old

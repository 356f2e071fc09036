"""encodec's modules with today's weight normalisation: the old one warns and cannot be copied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def parametrized_norm() -> Iterator[None]:
    """While it lasts, encodec's modules are built with `torch.nn.utils.parametrizations.weight_norm`."""
    import encodec.modules.conv as conv

    old = conv.weight_norm
    conv.weight_norm = torch.nn.utils.parametrizations.weight_norm
    try:
        yield
    finally:
        conv.weight_norm = old

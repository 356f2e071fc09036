"""What holds for every test."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def gradients_stay_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test, or what it calls, that leaves torch without gradients breaks no other, and is named."""
    yield
    import torch

    if not torch.is_grad_enabled():
        torch.set_grad_enabled(True)
        warnings.warn(f"{request.node.nodeid} left gradients switched off", stacklevel=1)

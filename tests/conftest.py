"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def gradients_stay_on() -> Iterator[None]:
    """A test, or what it calls, that leaves torch without gradients would break others, far away from it."""
    yield
    import torch

    left_off = not torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    assert not left_off, "gradients were left switched off"

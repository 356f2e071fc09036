"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def gradients_stay_enabled() -> Iterator[None]:
    """A test, or what it calls, that leaves torch without gradients fails, and breaks no other."""
    yield
    import torch

    if not torch.is_grad_enabled():
        torch.set_grad_enabled(True)
        pytest.fail("gradients were left switched off: every test after this one would have trained nothing")

"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def gradients_stay_enabled() -> Iterator[None]:
    """Fail a test that leaves gradients disabled, and enable them again for the next tests."""
    yield
    import torch

    if not torch.is_grad_enabled():
        torch.set_grad_enabled(True)
        pytest.fail("the test left gradients disabled, so later tests would train nothing")

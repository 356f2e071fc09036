"""Tests that compare a GPU with the CPU. `CODECVQ_GPU_TESTS=cpu` runs them on the CPU, to test the tests."""

from __future__ import annotations

import os

import pytest
import torch

WANTED = os.environ.get("CODECVQ_GPU_TESTS", "cuda")
# cuBLAS reads this variable at its start. Without it, some products differ between runs.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/gpu" in item.path.as_posix():
            item.add_marker("gpu")


@pytest.fixture(scope="session")
def device() -> torch.device:
    if WANTED == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    # TF32 convolutions, the default of cuDNN, round to 10 bits, so a few frames in a thousand get other codes
    torch.backends.cudnn.allow_tf32 = False
    return torch.device(WANTED)

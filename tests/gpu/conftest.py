"""What a GPU does, against the CPU. `CODECVQ_GPU_TESTS=cpu` runs all on the CPU, to test the tests."""

from __future__ import annotations

import os

import pytest
import torch

WANTED = os.environ.get("CODECVQ_GPU_TESTS", "cuda")
# cuBLAS reads it when it starts: without it some products differ from run to run
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/gpu" in item.path.as_posix():
            item.add_marker("gpu")


@pytest.fixture(scope="session")
def device() -> torch.device:
    if WANTED == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    # convolutions in TF32, cuDNN's default, round to 10 bits: codes of a few frames in a thousand differ
    torch.backends.cudnn.allow_tf32 = False
    return torch.device(WANTED)

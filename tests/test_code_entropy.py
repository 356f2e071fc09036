"""The entropy of codes, from counts in numpy and in torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from codecvq.code_entropy import entropy_nats

KINDS: dict[str, Callable[[Any], Any]] = {"numpy": np.array, "torch": torch.tensor}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("counts", "entropy"),
    [
        ([0, 0, 0], 0.0),
        ([7, 0, 0], 0.0),
        ([2, 2, 0, 2, 2], math.log(4)),
        ([1.0, 3.0], 2 * math.log(2) - 0.75 * math.log(3)),
        ([0.5, 0.5], math.log(2)),
    ],
)
def test_the_entropy_matches_its_definition(kind: str, counts: list[float], entropy: float) -> None:
    assert float(entropy_nats(KINDS[kind](counts))) == pytest.approx(entropy, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_has_its_own_entropy(kind: str) -> None:
    found = entropy_nats(KINDS[kind]([[1, 1, 1, 1], [4, 0, 0, 0], [0, 0, 0, 0]]))
    assert found.tolist() == pytest.approx([math.log(4), 0.0, 0.0], abs=1e-6)
    assert min(found.tolist()) >= 0

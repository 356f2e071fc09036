"""Knots: one per frame, for least-squares lines through values with several per frame."""

from __future__ import annotations

import pytest
import torch

from codecvq.networks.voice.knots import MIN_WEIGHT, knots
from codecvq.networks.voice.source import interpolate


def values(times: int, frames: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Two random walks and their masks. In the first, the third frame is masked."""
    generator = torch.Generator().manual_seed(times)
    walks = torch.randn(2, frames * times, generator=generator).cumsum(dim=1)
    counts = torch.rand(2, frames * times, generator=generator) > 0.4
    counts[0, 2 * times : 3 * times] = False
    return walks, counts


@pytest.mark.parametrize("times", [1, 2, 3, 4])
def test_knots_match_the_least_squares_solution(times: int) -> None:
    walks, counts = values(times)
    found = knots(walks, counts, times)
    lines = interpolate(torch.eye(12), times).T.double()  # [T * n, T]
    for walk, count, knot in zip(walks, counts, found, strict=True):
        root = torch.where(count, 1.0, MIN_WEIGHT**0.5).double()[:, None]
        expected = torch.linalg.lstsq(root * lines, root * walk.double()[:, None]).solution[:, 0]
        torch.testing.assert_close(knot.double(), expected, rtol=1e-4, atol=1e-4)


def test_a_straight_line_is_fitted_exactly_with_half_of_its_values_masked() -> None:
    line = torch.arange(80.0)[None] * 0.3
    counts = torch.arange(80)[None] % 8 < 4
    inside = slice(20, -20)  # lines are constant at the ends
    torch.testing.assert_close(
        interpolate(knots(line, counts, 2), 2)[:, inside], line[:, inside], atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("times", [1, 2, 3])
def test_masked_values_do_not_change_the_result(times: int) -> None:
    walks, counts = values(times)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False
    found = knots(walks, counts, times, mask)
    torch.testing.assert_close(found[:1], knots(walks[:1], counts[:1], times), rtol=0, atol=0)
    alone = knots(walks[1:, : 7 * times], counts[1:, : 7 * times], times)
    torch.testing.assert_close(found[1:, :7], alone, rtol=0, atol=0)

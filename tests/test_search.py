"""The tiled search against brute force in float64, at every size where tiles and groups begin and end."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from codecvq.quantizer import nearest_codes
from codecvq.quantizer.search import GROUP, ROWS, TILE, Kept, search_table

WIDTH = TILE // ROWS  # codewords a tile where there are vectors enough
SIZES = [1, 2, GROUP - 1, GROUP, GROUP + 1, 1000, WIDTH, WIDTH + 1, 2 * WIDTH + GROUP + 3]


def distances(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Every distance, by subtraction, in float64: `[M, D]`, `[K, D]` -> `[M, K]`."""
    return torch.cdist(vectors.double(), codebook.double(), compute_mode="donot_use_mm_for_euclid_dist")


def draw(rows: int, dim: int, seed: int) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 75, ROWS + 1])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_the_codeword_found_is_the_nearest(size: int, count: int, offset: float) -> None:
    codebook, vectors = draw(size, 7, seed=1) + offset, draw(count, 7, seed=2) + offset
    table = distances(vectors, codebook)
    found = table.gather(1, nearest_codes(vectors, codebook)[:, None])[:, 0]
    nearest = table.min(dim=1).values
    # |c|²/2 and z·c are rounded to float32: nearer by less than that is not nearer
    rounding = 1e-6 * (1 + codebook.sub(offset).square().sum(dim=1).max())
    assert torch.all(found.square() <= nearest.square() + rounding)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("offset", [0, 4096])
def test_codes_on_a_grid_of_whole_numbers_are_exact(size: int, offset: int) -> None:
    """Whole numbers have no rounding, and many ties: equal to brute force code by code, the lowest first."""
    generator = torch.Generator().manual_seed(size)
    codebook = torch.randint(-8, 9, (size // 2 + 1, 3), generator=generator).float().repeat(2, 1)[:size]
    codebook = torch.cat([codebook, -codebook]) + offset  # its mean is exact, too
    vectors = torch.randint(-10, 11, (ROWS + 3, 3), generator=generator).float() + offset
    assert torch.equal(nearest_codes(vectors, codebook), distances(vectors, codebook).square().argmin(dim=1))


def test_equal_codewords_in_different_tiles_give_the_first() -> None:
    codebook = draw(8, 4, seed=3).repeat(WIDTH, 1)  # every codeword again and again, over several tiles
    vectors = draw(ROWS + 1, 4, seed=4)
    assert torch.equal(nearest_codes(vectors, codebook), distances(vectors, codebook[:8]).argmin(dim=1))


@pytest.mark.parametrize("size", [GROUP + 1, 1000])
def test_codewords_nearly_equal_are_told_apart(size: int) -> None:
    codebook = 1 + torch.arange(float(size))[:, None] * 2.0**-20
    assert nearest_codes(codebook, codebook).tolist() == list(range(size))


def test_no_vectors_have_no_codes() -> None:
    codes = nearest_codes(torch.zeros(0, 3), draw(300, 3, seed=5))
    assert codes.shape == (0,)
    assert codes.dtype == torch.int64


def test_a_vector_has_the_code_it_has_alone() -> None:
    codebook, vectors = draw(3000, 16, seed=6), draw(2 * ROWS + 5, 16, seed=7)
    alone = torch.cat([nearest_codes(row, codebook) for row in vectors[ROWS - 20 : ROWS + 20].split(1)])
    assert torch.equal(nearest_codes(vectors, codebook)[ROWS - 20 : ROWS + 20], alone)


def test_a_table_made_before_gives_the_same() -> None:
    codebook, vectors = draw(1000, 16, seed=8), draw(50, 16, seed=9)
    assert torch.equal(nearest_codes(vectors, search_table(codebook)), nearest_codes(vectors, codebook))


@pytest.mark.parametrize("size", [100, 2 * GROUP])
def test_it_compiles_whole(size: int) -> None:
    codebook, vectors = draw(size, 4, seed=10), draw(ROWS + 1, 4, seed=11)
    compiled = torch.compile(nearest_codes, fullgraph=True, backend="eager")
    assert torch.equal(compiled(vectors, codebook), nearest_codes(vectors, codebook))


# What is kept of a codebook


def test_kept_follows_every_counted_change() -> None:
    kept, weight = Kept(), nn.Parameter(torch.ones(2))
    made = []

    def get() -> Tensor:
        return kept.get(lambda: made.append(1) or weight.detach().clone(), weight)

    assert get() is get()
    with torch.no_grad():
        weight.add_(1)  # as an optimizer does
    assert get().tolist() == [2.0, 2.0]
    weight.data = torch.full((2,), 5.0)  # as module.to does
    assert get().tolist() == [5.0, 5.0]
    weight = nn.Parameter(torch.zeros(2))  # as load_state_dict(assign=True) does
    assert get().tolist() == [0.0, 0.0]
    assert len(made) == 4


def test_kept_is_not_copied() -> None:
    kept, weight = Kept(), torch.ones(2)
    kept.get(lambda: "of the first", weight)
    assert copy.deepcopy(kept).get(lambda: "of the copy", weight) == "of the copy"


def test_kept_works_on_inference_tensors() -> None:
    with torch.inference_mode():
        weight, kept = torch.ones(2), Kept()
        assert kept.get(lambda: float(weight.sum()), weight) == 2.0
        weight.add_(1)
        assert kept.get(lambda: float(weight.sum()), weight) == 4.0

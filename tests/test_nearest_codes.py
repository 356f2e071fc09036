"""Nearest-codeword search against float64 brute force at all tile sizes; `TensorCache`; the prefilter."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.quantizer import nearest_codes, prefilter, search
from codecvq.quantizer.search import GROUP, ROWS, TILE, TensorCache, search_table

WIDTH = TILE // ROWS  # codewords in a tile for ROWS or more vectors
SIZES = [1, 2, GROUP - 1, GROUP, GROUP + 1, 1000, WIDTH, WIDTH + 1, 2 * WIDTH + GROUP + 3]


def distances(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Distances by subtraction in float64: `[M, D]`, `[K, D]` -> `[M, K]`."""
    return torch.cdist(vectors.double(), codebook.double(), compute_mode="donot_use_mm_for_euclid_dist")


def draw(rows: int, dim: int, seed: int) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 75, ROWS + 1])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_nearest_codes_are_nearest(size: int, count: int, offset: float) -> None:
    codebook, vectors = draw(size, 7, seed=1) + offset, draw(count, 7, seed=2) + offset
    table = distances(vectors, codebook)
    chosen = table.gather(1, nearest_codes(vectors, codebook)[:, None])[:, 0]
    nearest = table.min(dim=1).values
    # |c|²/2 and z·c are rounded to float32, so smaller differences do not count.
    rounding = 1e-6 * (1 + codebook.sub(offset).square().sum(dim=1).max())
    assert torch.all(chosen.square() <= nearest.square() + rounding)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("offset", [0, 4096])
def test_codes_on_an_integer_grid_are_exact(size: int, offset: int) -> None:
    """Integers have no rounding errors and many ties. The lowest of equal codes is selected."""
    generator = torch.Generator().manual_seed(size)
    codebook = torch.randint(-8, 9, (size // 2 + 1, 3), generator=generator).float().repeat(2, 1)[:size]
    codebook = torch.cat([codebook, -codebook]) + offset  # its mean is exact, too
    vectors = torch.randint(-10, 11, (ROWS + 3, 3), generator=generator).float() + offset
    assert torch.equal(nearest_codes(vectors, codebook), distances(vectors, codebook).square().argmin(dim=1))


def test_ties_across_tiles_give_the_first_code() -> None:
    codebook = draw(8, 4, seed=3).repeat(WIDTH, 1)  # repeats every codeword over several tiles
    vectors = draw(ROWS + 1, 4, seed=4)
    assert torch.equal(nearest_codes(vectors, codebook), distances(vectors, codebook[:8]).argmin(dim=1))


@pytest.mark.parametrize("size", [GROUP + 1, 1000])
def test_nearly_equal_codewords_are_distinguished(size: int) -> None:
    codebook = 1 + torch.arange(float(size))[:, None] * 2.0**-20
    assert nearest_codes(codebook, codebook).tolist() == list(range(size))


def test_empty_input_gives_empty_codes() -> None:
    codes = nearest_codes(torch.zeros(0, 3), draw(300, 3, seed=5))
    assert codes.shape == (0,)
    assert codes.dtype == torch.int64


def test_codes_do_not_depend_on_the_batch() -> None:
    codebook, vectors = draw(3000, 16, seed=6), draw(2 * ROWS + 5, 16, seed=7)
    alone = torch.cat([nearest_codes(row, codebook) for row in vectors[ROWS - 20 : ROWS + 20].split(1)])
    assert torch.equal(nearest_codes(vectors, codebook)[ROWS - 20 : ROWS + 20], alone)


def test_a_precomputed_table_gives_the_same_codes() -> None:
    codebook, vectors = draw(1000, 16, seed=8), draw(50, 16, seed=9)
    assert torch.equal(nearest_codes(vectors, search_table(codebook)), nearest_codes(vectors, codebook))


@pytest.mark.parametrize("size", [100, 2 * GROUP])
def test_nearest_codes_compiles_without_graph_breaks(size: int) -> None:
    codebook, vectors = draw(size, 4, seed=10), draw(ROWS + 1, 4, seed=11)
    compiled = torch.compile(nearest_codes, fullgraph=True, backend="eager")
    assert torch.equal(compiled(vectors, codebook), nearest_codes(vectors, codebook))


# TensorCache


def test_tensor_cache_is_invalidated_by_every_change() -> None:
    cache, weight = TensorCache(), nn.Parameter(torch.ones(2))
    computed = []

    def get() -> Tensor:
        return cache.get(lambda: computed.append(1) or weight.detach().clone(), weight)

    assert get() is get()
    with torch.no_grad():
        weight.add_(1)  # like an optimizer
    assert get().tolist() == [2.0, 2.0]
    weight.data = torch.full((2,), 5.0)  # like module.to
    assert get().tolist() == [5.0, 5.0]
    weight = nn.Parameter(torch.zeros(2))  # like load_state_dict(assign=True)
    assert get().tolist() == [0.0, 0.0]
    assert len(computed) == 4


def test_tensor_cache_is_not_copied() -> None:
    cache, weight = TensorCache(), torch.ones(2)
    cache.get(lambda: "of the first", weight)
    assert copy.deepcopy(cache).get(lambda: "of the copy", weight) == "of the copy"


def test_tensor_cache_works_with_inference_tensors() -> None:
    with torch.inference_mode():
        weight, cache = torch.ones(2), TensorCache()
        assert cache.get(lambda: float(weight.sum()), weight) == 2.0
        weight.add_(1)
        assert cache.get(lambda: float(weight.sum()), weight) == 4.0


# The bfloat16 prefilter, also on processors without bfloat16 instructions


@pytest.fixture
def use_prefilter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefilter, "has_fast_bfloat16", lambda: True)
    monkeypatch.setattr(search, "MIN_PREFILTER_SCORES", 0)


def clusters(rows: int, dim: int, seed: int) -> Tensor:
    """Vectors around 20 centers. Their norms differ by a factor of 1000."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(20, dim, generator=generator) * torch.logspace(-2, 1, 20)[:, None]
    which = torch.randint(20, (rows,), generator=generator)
    return centers[which] * (1 + 0.05 * torch.randn(rows, dim, generator=generator))


KINDS = {
    "gaussian": draw,
    "small": lambda rows, dim, seed: 1e-3 * draw(rows, dim, seed),
    "far": lambda rows, dim, seed: 1000 + draw(rows, dim, seed),
    "unit": lambda rows, dim, seed: F.normalize(draw(rows, dim, seed), dim=1),
    "clusters": clusters,
}


@pytest.mark.parametrize("dim", [1, 8, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_prefilter_candidates_contain_the_nearest_codeword(kind: str, dim: int, use_prefilter: None) -> None:
    codebook, vectors = KINDS[kind](1000, dim, seed=12), KINDS[kind](300, dim, seed=13)
    table = search_table(codebook)
    assert table.coarse is not None
    pairs = prefilter.candidate_groups(vectors - table.center, table.coarse, share=1.0)
    assert pairs is not None
    group, row = pairs
    selected = torch.zeros(300, len(table.codewords) // GROUP, dtype=torch.bool)
    selected[row, group] = True
    # The same centered values, so that only the error of the prefilter matters.
    centered, codewords = (vectors - table.center).double(), table.codewords[:1000].double()
    scores = codewords.square().sum(dim=1) / 2 - centered @ codewords.T
    nearest = scores.argmin(dim=1) // GROUP
    assert bool(selected.gather(1, nearest[:, None]).all())
    if dim == 64 and kind != "clusters":  # the prefilter saves time only if it excludes groups
        assert selected.float().mean() < 0.5


@pytest.mark.parametrize("dim", [1, 8, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_search_with_prefilter_equals_search_without(kind: str, dim: int, use_prefilter: None) -> None:
    codebook, vectors = KINDS[kind](1000, dim, seed=14), KINDS[kind](2500, dim, seed=15)
    table = search_table(codebook)
    codes, expected = nearest_codes(vectors, table), nearest_codes(vectors, table._replace(coarse=None))
    different = codes != expected  # both use float32, so they may resolve rounding ties differently
    gap = distances(vectors, codebook).square().gather(1, torch.stack([codes, expected], dim=1)).diff().abs()
    scale = (vectors - table.center).norm(dim=1) * table.codewords.norm(dim=1).max() + table.half_norms[
        :1000
    ].max()
    assert torch.all(gap[:, 0] <= 1e-5 * scale)
    assert different.float().mean() < 0.01


def test_prefilter_resolves_ties_to_the_first_code(use_prefilter: None) -> None:
    codebook = draw(600, 8, seed=16).repeat(2, 1)
    vectors = draw(2000, 8, seed=17)
    assert int(nearest_codes(vectors, codebook).max()) < 600


def test_prefilter_is_skipped_if_bfloat16_is_too_coarse(use_prefilter: None) -> None:
    """Distances of 1000 codewords to a far vector differ by 0.001. float32 distinguishes them."""
    line = torch.linspace(-1, 1, 1000)[:, None] * 2.0**-10
    codebook, vectors = torch.cat([line, 0 * line], dim=1), torch.cat([line, 1000 + 0 * line], dim=1)
    codebook = torch.cat([codebook, torch.tensor([[0.0, -3.0], [0.0, 3.0]])])[:-1]
    table = search_table(codebook)
    assert table.coarse is not None
    assert prefilter.candidate_groups(vectors - table.center, table.coarse) is None
    assert torch.equal(nearest_codes(vectors, table), nearest_codes(vectors, table._replace(coarse=None)))


def test_prefilter_overflow_falls_back_to_float32(use_prefilter: None) -> None:
    codebook, vectors = draw(1000, 4, seed=18), 1e30 * draw(10, 4, seed=19)
    table = search_table(1e-5 * codebook)
    assert torch.equal(nearest_codes(vectors, table), nearest_codes(vectors, table._replace(coarse=None)))


def test_search_tables_for_few_vectors_have_no_coarse_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefilter, "has_fast_bfloat16", lambda: True)
    codebook = draw(1000, 4, seed=20)
    assert search_table(codebook, vectors=75).coarse is None
    assert search_table(codebook[:100]).coarse is None
    assert search_table(codebook, vectors=ROWS).coarse is not None
    monkeypatch.setattr(prefilter, "has_fast_bfloat16", lambda: False)
    assert search_table(codebook).coarse is None

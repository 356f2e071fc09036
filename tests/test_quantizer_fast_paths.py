"""Fast implementations equal slow ones that follow the definitions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import codecvq
from codecvq.quantizer import statistics
from codecvq.quantizer.frames import all_finite, finite_frames, real_vectors


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Metrics


@pytest.mark.parametrize("rows", [1, 75, 1000])
@pytest.mark.parametrize("sizes", [(7,), (40, 7, 300)], ids=str)
def test_metrics_by_histogram_and_by_sorting_equal_counts(
    rows: int, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = torch.stack([torch.randint(0, size, (rows,), generator=generator()) for size in sizes], dim=1)
    results = []
    for bins in (10**9, 0):  # always a histogram, then never
        monkeypatch.setattr(statistics, "MAX_BINS_PER_CODE", bins)
        monkeypatch.setattr(statistics, "MAX_SMALL_HISTOGRAM", bins)
        results.append(statistics.code_metrics(codes, sizes))
    for metrics in results:
        for i, size in enumerate(sizes):
            counts = codes[:, i].bincount().double()
            shares = counts[counts > 0] / rows
            name = f"/{i}" if len(sizes) > 1 else ""
            perplexity = math.exp(-float((shares * shares.log()).sum()))
            assert float(metrics[f"perplexity{name}"]) == pytest.approx(perplexity, rel=1e-5)
            assert float(metrics[f"usage{name}"]) == pytest.approx(len(shares) / size)


@pytest.mark.parametrize("size", [5, 2**60])
def test_metrics_of_empty_codes_are_finite(size: int) -> None:
    metrics = statistics.code_metrics(torch.zeros(0, 1, dtype=torch.int64), (size,))
    assert float(metrics["perplexity"]) == 1.0
    assert float(metrics["usage"]) == 0.0


def test_memory_of_metrics_does_not_grow_with_the_codebook() -> None:
    codes = torch.tensor([[2**60 - 1], [0], [2**60 - 1], [12345]])
    metrics = statistics.code_metrics(codes, (2**60,))
    assert float(metrics["perplexity"]) == pytest.approx(2**1.5)
    assert float(metrics["usage"]) == pytest.approx(3 / 2**60)


# Frames


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dim", [1, 4, 40])
def test_non_finite_frames_are_detected(bad: float, dim: int) -> None:
    latents = torch.randn(2, dim, 5, generator=generator())
    latents[0, :, 1] = torch.finfo(torch.float32).max  # finite, and so is its negative
    latents[0, 0, 1] *= -1
    assert bool(all_finite(latents))
    latents[1, dim - 1, 3] = bad
    expected = latents.isfinite().all(dim=1)
    assert torch.equal(finite_frames(latents), expected)
    assert not bool(all_finite(latents))
    assert not bool(expected.all())


@pytest.mark.parametrize("dim", [3, 64])
@pytest.mark.parametrize("learns", [False, True])
def test_real_vectors_returns_the_valid_frames(dim: int, learns: bool) -> None:
    latents = torch.randn(3, dim, 5, generator=generator(), dtype=torch.float64).requires_grad_(learns)
    mask = torch.rand(3, 5, generator=generator()) < 0.6
    rows, items = real_vectors(latents, mask)
    expected = [(b, latents[b, :, t].float()) for b in range(3) for t in range(5) if mask[b, t]]
    assert torch.equal(rows, torch.stack([row for _, row in expected]))
    assert items.items.tolist() == [b for b, _ in expected]
    assert torch.equal(real_vectors(latents, None)[0], latents.transpose(1, 2).flatten(0, 1).float())


# fsq, lfq and residual_fsq: integers stored in floats


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [2] * 52, [2**13] * 4, [2] * 53, [4] * 31], ids=str)
def test_fsq_codes_equal_mixed_radix_numbers(levels: list[int]) -> None:
    quantizer = codecvq.build_quantizer("fsq", dim=len(levels), levels=levels).eval()
    digits = torch.stack([torch.randint(0, n, (50,), generator=generator(n)) for n in levels], dim=1)
    digits[0], digits[1] = 0, torch.tensor(levels) - 1
    radix = [1, *itertools.accumulate(levels[:-1], lambda a, b: a * b)]
    expected = [sum(digit * step for digit, step in zip(row, radix, strict=True)) for row in digits.tolist()]
    assert quantizer.codes_of(digits.float()).tolist() == expected
    assert torch.equal(quantizer.digits_of(torch.tensor(expected)), digits.double())


@pytest.mark.parametrize("bits", [1, 10, 53, 54, 62])
def test_lfq_codes_have_the_signs_as_bits(bits: int) -> None:
    quantizer = codecvq.build_quantizer("lfq", dim=2 * bits, bits=bits, num_codebooks=2).eval()
    vectors = torch.randn(50, 2 * bits, generator=generator(bits))
    vectors[0] = 1.0
    expected = [
        [sum(1 << i for i, value in enumerate(part) if value >= 0) for part in (row[:bits], row[bits:])]
        for row in vectors.tolist()
    ]
    assert quantizer.codes_only(vectors).tolist() == expected
    assert quantizer.quantize(vectors)[1].tolist() == expected


@pytest.mark.parametrize(
    ("levels", "stages"), [([5, 5, 5, 5], 8), ([8, 3], 17), ([2, 7], 18), ([4], 26)], ids=str
)
def test_residual_fsq_decodes_to_the_sum_of_its_stages(levels: list[int], stages: int) -> None:
    quantizer = codecvq.build_quantizer(
        "residual_fsq", dim=len(levels), levels=levels, num_codebooks=stages
    ).eval()
    codes = torch.randint(0, math.prod(levels), (1, stages, 300), generator=generator())
    level = torch.tensor(levels, dtype=torch.float64)
    radix = torch.tensor([1, *itertools.accumulate(levels[:-1], lambda a, b: a * b)])
    for depth in (1, 2, stages):
        digits = codes[0, :depth, :, None] // radix % level.long()  # [n, T, D]
        scales = level ** -torch.arange(depth)[:, None, None]
        expected = ((2 * digits / (level - 1) - 1) * scales).sum(dim=0)  # [T, D]
        torch.testing.assert_close(
            quantizer.decode(codes[:, :depth])[0].T.double(), expected, rtol=0, atol=2e-7
        )


def test_residual_fsq_with_dropout_equals_decoding_the_active_codes() -> None:
    quantizer = codecvq.build_quantizer(
        "residual_fsq", dim=4, levels=[5, 5, 5, 5], num_codebooks=6, dropout=0.7
    )
    quantizer.generator = generator(1)
    latents = torch.randn(16, 4, 9, generator=generator(2)).requires_grad_()
    out = quantizer(latents)
    depths = [next((n for n in range(1, 6) if not out.codes[b, n:].any()), 6) for b in range(16)]
    assert len(set(depths)) > 2
    for b, depth in enumerate(depths):
        decoded = quantizer.decode(out.codes[b : b + 1, :depth])
        assert torch.equal(out.latents[b : b + 1], decoded)


# vq


def test_unselected_codewords_do_not_change() -> None:
    quantizer = codecvq.build_quantizer("vq", dim=4, codebook_size=64, init="random", dead_code_threshold=0.0)
    before: Tensor = quantizer.codebook.clone()
    used = quantizer(torch.randn(1, 4, 10, generator=generator())).codes.unique()
    moved = (quantizer.codebook != before).any(dim=1)
    assert torch.equal(moved.nonzero()[:, 0], used)

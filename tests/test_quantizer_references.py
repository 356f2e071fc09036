"""Quantization methods against slow float64 references: brute force, enumeration, explicit matrices."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import codecvq
from codecvq.quantizer import estimate, nearest_codes
from codecvq.quantizer.estimators import find_estimator

# Search


@pytest.mark.parametrize("offset", [0.0, 3.0, 100.0, 1000.0])
@pytest.mark.parametrize(
    ("vectors", "size", "dim"), [(1, 2, 1), (300, 1000, 16), (2049, 5, 3), (700, 257, 64)]
)
def test_nearest_codes_equal_a_float64_brute_force_search(
    vectors: int, size: int, dim: int, offset: float
) -> None:
    generator = torch.Generator().manual_seed(size)
    z = torch.randn(vectors, dim, generator=generator) + offset
    codebook = torch.randn(size, dim, generator=generator) + offset
    distances = torch.cdist(z.double(), codebook.double(), compute_mode="donot_use_mm_for_euclid_dist")
    chosen = distances.gather(1, nearest_codes(z, codebook)[:, None])[:, 0]
    # float32 cannot separate nearly equal distances, so the test compares distances, not codes.
    assert torch.all(chosen <= distances.min(dim=1).values * (1 + 1e-6) + 1e-6)
    assert (nearest_codes(z, codebook) == distances.argmin(dim=1)).float().mean() > 0.998


def test_close_codewords_are_distinguished() -> None:
    codebook = torch.arange(8.0)[:, None] * 2e-5
    assert nearest_codes(codebook, codebook).tolist() == list(range(8))


def test_ties_are_resolved_to_the_lowest_code() -> None:
    codebook = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert nearest_codes(torch.tensor([[0.0, -1.0], [2.0, 0.0]]), codebook).tolist() == [0, 0]
    assert nearest_codes(torch.zeros(0, 2), codebook).shape == (0,)


# Estimators


def explicit_rotation(z: Tensor, q: Tensor) -> Tensor:
    """The smallest rotation from z to q, built in their plane: `[d]`, `[d]` -> `[d, d]`."""
    u, v = z / z.norm(), q / q.norm()
    cosine = u @ v
    w = v - cosine * u
    w = w / w.norm()
    sine = (1 - cosine**2).sqrt()
    plane = torch.outer(u, u) + torch.outer(w, w)
    turn = cosine * plane + sine * (torch.outer(w, u) - torch.outer(u, w))
    return torch.eye(len(z), dtype=z.dtype) - plane + turn


@pytest.mark.parametrize("name", ["rotation", "rotation_unscaled"])
@pytest.mark.parametrize("dim", [2, 3, 17])
def test_rotation_equals_the_explicit_matrix(name: str, dim: int) -> None:
    generator = torch.Generator().manual_seed(dim)
    z, q = torch.randn(2, dim, generator=generator, dtype=torch.float64)
    expected = explicit_rotation(z, q) * (q.norm() / z.norm() if name == "rotation" else 1.0)
    torch.testing.assert_close(expected @ z, q if name == "rotation" else q * z.norm() / q.norm())

    def quantized(x: Tensor) -> Tensor:
        return estimate(find_estimator(name), x[None], q[None])[0]

    assert torch.equal(quantized(z), q)
    torch.testing.assert_close(torch.autograd.functional.jacobian(quantized, z), expected)


@pytest.mark.parametrize("name", ["rotation", "rotation_unscaled"])
def test_rotation_falls_back_to_straight_through(name: str) -> None:
    codeword, zero = torch.tensor([[1.0, 2.0, 2.0]]), torch.zeros(1, 3)
    pairs = [
        (zero, codeword),
        (codeword, zero),
        (zero, zero),
        (-codeword, codeword),
        (-codeword + 1e-7, codeword),
        (-3 * codeword, codeword),
    ]
    for z, q in pairs:
        z = z.clone().requires_grad_()
        out = estimate(find_estimator(name), z, q)
        assert torch.equal(out, q)
        (gradient,) = torch.autograd.grad(out, z, torch.tensor([[3.0, 4.0, 5.0]]))
        assert gradient.tolist() == [[3.0, 4.0, 5.0]]


def test_the_scale_of_the_rotation_is_limited() -> None:
    z = torch.tensor([[1e-4, 0.0]], requires_grad=True)
    out = estimate(find_estimator("rotation"), z, torch.tensor([[0.0, 1.0]]))
    (gradient,) = torch.autograd.grad(out.sum(), z)
    assert gradient.norm() <= 10 * 2**0.5 + 1e-5


# vq


def test_vq_equals_its_definition() -> None:
    decay, generator = 0.9, torch.Generator().manual_seed(0)
    quantizer = codecvq.build_quantizer(
        "vq", dim=4, codebook_size=8, decay=decay, init="random", dead_code_threshold=0.0
    )
    codebook = quantizer.codebook.double().clone()
    usage = torch.full((8,), 2 * 25 / 8, dtype=torch.float64)
    for _ in range(20):
        latents = torch.randn(2, 4, 25, generator=generator)
        out = quantizer(latents)
        z = latents.transpose(1, 2).flatten(0, 1).double()
        codes = (z[:, None] - codebook).square().sum(dim=2).argmin(dim=1)
        assert torch.equal(out.codes.flatten(), codes)
        commitment = 0.25 * (z - codebook[codes]).square().mean()
        torch.testing.assert_close(out.losses["commitment"].double(), commitment, rtol=1e-5, atol=0)
        for k in range(8):
            assigned = z[codes == k]
            new = decay * usage[k] + (1 - decay) * len(assigned)
            codebook[k] = (decay * usage[k] * codebook[k] + (1 - decay) * assigned.sum(dim=0)) / new
            usage[k] = new
    torch.testing.assert_close(quantizer.codebook.double(), codebook, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quantizer.usage.double(), usage, rtol=1e-4, atol=1e-5)


def used_codes(threshold: float) -> int:
    """Number of used codewords, of 64, after 300 steps on data far from the initial codebook."""
    torch.manual_seed(0)
    quantizer = codecvq.build_quantizer(
        "vq", dim=4, codebook_size=64, init="random", decay=0.9, dead_code_threshold=threshold
    )
    latents = 5 + torch.randn(1, 4, 1024)
    for _ in range(300):
        quantizer(latents)
    return len(quantizer.encode(latents).unique())


def test_dead_codewords_are_replaced() -> None:
    assert used_codes(0.0) < 32
    assert used_codes(0.1) >= 60


def test_a_replaced_codeword_starts_with_average_usage() -> None:
    torch.manual_seed(0)
    quantizer = codecvq.build_quantizer("vq", dim=2, codebook_size=4, init="random", dead_code_threshold=0.5)
    latents = torch.randn(1, 2, 64)
    quantizer(latents)
    quantizer.usage.copy_(torch.tensor([100.0, 100.0, 100.0, 0.0]))
    quantizer(latents)
    assert quantizer.usage[3] == pytest.approx(float(quantizer.usage[:3].sum()) / 4, rel=0.5)


def test_kmeans_initializes_codewords_near_the_data() -> None:
    torch.manual_seed(0)
    centers = 10 * torch.randn(8, 3)
    latents = (centers.repeat(32, 1) + 0.01 * torch.randn(256, 3)).T[None]
    quantizer = codecvq.build_quantizer("vq", dim=3, codebook_size=16)
    quantizer(latents)
    assert bool(quantizer.started)
    assert torch.cdist(quantizer.codebook, centers).min(dim=1).values.max() < 5.0
    assert (quantizer.eval()(latents).latents - latents).square().mean() < 0.1 * latents.square().mean()


def test_cosine_codes_do_not_depend_on_length() -> None:
    quantizer = codecvq.build_quantizer(
        "vq", dim=6, codebook_size=32, distance="cosine", init="random"
    ).eval()
    latents = torch.randn(2, 6, 30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(quantizer.encode(latents), quantizer.encode(latents * 37.0))
    unit = torch.nn.functional.normalize(quantizer.codebook, dim=1)
    expected = torch.einsum("bdt,kd->btk", latents, unit).argmax(dim=2)
    assert torch.equal(quantizer.encode(latents)[:, 0], expected)


# simvq


def test_simvq_losses_do_not_depend_on_the_estimator() -> None:
    for estimator in ("ste", "rotation"):
        torch.manual_seed(0)
        quantizer = codecvq.build_quantizer("simvq", dim=5, codebook_size=32, estimator=estimator)
        latents = torch.randn(2, 5, 20).requires_grad_()
        out = quantizer(latents)
        z = latents.transpose(1, 2).flatten(0, 1)
        mapped = quantizer.frozen @ quantizer.map.weight.T
        values = mapped[torch.cdist(z, mapped).argmin(dim=1)]
        torch.testing.assert_close(out.losses["commitment"], 0.25 * (z - values).square().mean())
        torch.testing.assert_close(out.losses["codebook"], (z - values).square().mean())
        (gradient,) = torch.autograd.grad(out.losses["commitment"], latents, retain_graph=True)
        torch.testing.assert_close(
            gradient.transpose(1, 2).flatten(0, 1), 0.25 * 2 * (z - values).detach() / z.numel()
        )
        assert torch.autograd.grad(out.losses["codebook"], quantizer.map.weight)[0].any()


def test_simvq_in_eval_uses_the_current_map() -> None:
    quantizer = codecvq.build_quantizer("simvq", dim=5, codebook_size=32).eval()
    latents = torch.randn(1, 5, 50)
    before = quantizer.encode(latents)
    with torch.no_grad():
        quantizer.map.weight.copy_(torch.eye(5).flip(0))
    mapped = quantizer.frozen @ quantizer.map.weight.T
    after = quantizer.encode(latents)
    assert torch.equal(after.flatten(), torch.cdist(latents[0].T, mapped).argmin(dim=1))
    assert not torch.equal(after, before)


# fsq


@pytest.mark.parametrize("levels", [[2], [3], [4, 5], [8, 5, 5, 5], [1000], [1200, 3], [16] * 8], ids=str)
def test_fsq_selects_the_nearest_level(levels: list[int]) -> None:
    dim = len(levels)
    quantizer = codecvq.build_quantizer("fsq", dim=dim, levels=levels).eval()
    latents = torch.randn(1, dim, 500, generator=torch.Generator().manual_seed(0))
    bounded = latents[0].T.tanh().double()
    digits = torch.stack(
        [
            (bounded[:, i, None] - torch.linspace(-1, 1, count, dtype=torch.float64)).abs().argmin(dim=1)
            for i, count in enumerate(levels)
        ]
    )
    radix = [1, *itertools.accumulate(levels[:-1], lambda a, b: a * b)]
    expected = sum(digit * step for digit, step in zip(digits, radix, strict=True))
    assert torch.equal(quantizer.encode(latents).flatten(), expected)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 16, 1001])
def test_fsq_uses_every_level_and_is_symmetric(count: int) -> None:
    quantizer = codecvq.build_quantizer("fsq", dim=1, levels=[count]).eval()
    ramp = torch.linspace(-8, 8, 20 * count + 1)[None, None]
    assert torch.equal(
        quantizer.decode(torch.arange(count)[None, None]).flatten().flip(0),
        -quantizer.decode(torch.arange(count)[None, None]).flatten(),
    )
    fine = torch.atanh(torch.linspace(-0.99999, 0.99999, 20 * count + 1))[None, None]
    assert quantizer.encode(fine).unique().tolist() == list(range(count))
    assert float(quantizer(ramp).latents.min()) == -1.0
    assert float(quantizer(ramp).latents.max()) == 1.0


def test_fsq_codes_are_exact_up_to_2_to_the_62() -> None:
    quantizer = codecvq.build_quantizer("fsq", dim=31, levels=[4] * 31).eval()
    assert quantizer.codebook_sizes == (2**62,)
    codes = torch.tensor([0, 1, 2**62 - 1, 2**61 + 12345, 3**39])[None, None]
    values = quantizer.decode(codes)
    bounded = torch.atanh(values.clamp(-0.99999, 0.99999))
    assert torch.equal(quantizer.encode(bounded), codes)


def test_fsq_with_two_levels_equals_lfq() -> None:
    fsq = codecvq.build_quantizer("fsq", dim=10, levels=[2] * 10).eval()
    lfq = codecvq.build_quantizer("lfq", dim=10, bits=10).eval()
    latents = torch.randn(2, 10, 100, generator=torch.Generator().manual_seed(0))
    latents[0, :, 0] = 0.0  # a tie gives +1 in both
    assert torch.equal(fsq.encode(latents), lfq.encode(latents))
    assert torch.equal(fsq(latents).latents, lfq(latents).latents)


# residual_fsq


@pytest.mark.parametrize(
    ("levels", "stages"), [([5, 5, 5, 5], 6), ([8, 5, 5, 5], 6), ([4, 4, 4], 10), ([2], 20)], ids=str
)
def test_residual_fsq_digits_equal_the_recursion(levels: list[int], stages: int) -> None:
    dim = len(levels)
    quantizer = codecvq.build_quantizer("residual_fsq", dim=dim, levels=levels, num_codebooks=stages).eval()
    latents = torch.randn(1, dim, 1000, generator=torch.Generator().manual_seed(0))
    level = torch.tensor(levels, dtype=torch.float64)
    bounded = quantizer.to_code_space(latents[0].T).double()  # exact conversion of the float32 vectors
    radix = torch.tensor([1, *itertools.accumulate(levels[:-1], lambda a, b: a * b)])
    rest, codes = bounded.clone(), []
    for n in range(stages):
        scale = level**-n
        digit = ((level - 1) * ((rest / scale).clamp(-1, 1) + 1) / 2 + 0.5).floor()
        rest = rest - (2 * digit / (level - 1) - 1) * scale
        codes.append((digit.long() * radix).sum(dim=1))
    mismatches = quantizer.encode(latents)[0] != torch.stack(codes)
    assert not mismatches.any(), mismatches.float().mean(dim=1)


@pytest.mark.parametrize("levels", [[5, 5], [8, 3], [2, 2]], ids=str)
def test_residual_fsq_converges_to_the_bounded_vector(levels: list[int]) -> None:
    level = torch.tensor(levels)
    limit = level / (level - 1)
    for stages in (1, 2, 4, 8):
        quantizer = codecvq.build_quantizer("residual_fsq", dim=2, levels=levels, num_codebooks=stages).eval()
        latents = torch.randn(1, 2, 2000, generator=torch.Generator().manual_seed(stages))
        bounded = limit * (latents[0].T / limit).tanh()
        error = (quantizer(latents).latents[0].T - bounded).abs()
        assert torch.all(error <= limit * level.double() ** -stages + 1e-6)


# lfq and bsq


@pytest.mark.parametrize("name", ["lfq", "bsq"])
def test_lfq_code_is_the_nearest_sign_vector(name: str) -> None:
    bits = 6
    quantizer = codecvq.build_quantizer(name, dim=bits, bits=bits).eval()
    latents = torch.randn(1, bits, 300, generator=torch.Generator().manual_seed(0))
    codebook = quantizer.decode(torch.arange(2**bits)[None, None])[0].T
    scale = 1.0 if name == "lfq" else bits**-0.5
    torch.testing.assert_close(codebook.abs(), torch.full_like(codebook, scale))
    vectors = quantizer.to_code_space(latents[0].T)
    assert torch.equal(quantizer.encode(latents).flatten(), torch.cdist(vectors, codebook).argmin(dim=1))


@pytest.mark.parametrize("name", ["lfq", "bsq"])
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_lfq_entropies_equal_an_enumeration_of_all_codes(name: str, temperature: float) -> None:
    bits = 5
    options = {"entropy_weight": 0.7, "diversity_weight": 2.0, "commitment_weight": 0.5}
    quantizer = codecvq.build_quantizer(name, dim=bits, bits=bits, temperature=temperature, **options)
    latents = torch.randn(2, bits, 40, generator=torch.Generator().manual_seed(0))
    out = quantizer(latents)
    vectors = quantizer.to_code_space(latents.transpose(1, 2).flatten(0, 1)).double()
    codebook = quantizer.decode(torch.arange(2**bits)[None, None])[0].T.double()
    scale = float(codebook.abs().max())
    shares = (-(vectors[:, None] - codebook).square().sum(dim=2) / (scale**2 * temperature)).softmax(dim=1)
    per_sample = torch.special.entr(shares).sum(dim=1).mean()
    of_codebook = torch.special.entr(shares.mean(dim=0)).sum()
    torch.testing.assert_close(out.metrics["per_sample_entropy"].double(), per_sample, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.metrics["codebook_entropy"].double(), of_codebook, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        out.losses["per_sample_entropy"].double(), 0.7 * per_sample, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        out.losses["codebook_entropy"].double(), -1.4 * of_codebook, rtol=1e-4, atol=1e-5
    )
    nearest = codebook[torch.cdist(vectors, codebook).argmin(dim=1)]
    commitment = 0.5 * (vectors - nearest).square().mean()
    torch.testing.assert_close(out.losses["commitment"].double(), commitment, rtol=1e-4, atol=1e-5)


def test_bsq_values_have_length_one() -> None:
    quantizer = codecvq.build_quantizer("bsq", dim=7, bits=7).eval()
    values = quantizer(torch.randn(2, 7, 30)).latents
    torch.testing.assert_close(values.norm(dim=1), torch.ones(2, 30))

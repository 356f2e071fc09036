"""Faults 1 to 15 of 32 faults that were reproduced in vector-quantize-pytorch 1.32.0, with a test for each.

The name of each test is the property that must hold. Its docstring begins with the number of the fault.
Faults 16 to 27 and 32 (numbers, state and search) are in test_numeric_faults.py. Faults 28 to 31 need several
processes and are in test_ranks.py. tests/README.md has the list.
"""

from __future__ import annotations

import ast
import copy
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small_quantizers import (
    DIM,
    PROJECTED,
    STACKS,
    assert_same,
    assert_same_state,
    gradient_of,
    make,
    normal,
    rows,
    state,
    trained,
)
from torch import Tensor

from codecvq.quantizer import Quantizer

HERE = Path(__file__).parent


def named_after_faults() -> dict[int, list[str]]:
    """Fault -> "file.py::test" of every test whose docstring begins with its number."""
    found: dict[int, list[str]] = {number: [] for number in range(1, 33)}
    for file in sorted(HERE.glob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                number = re.match(r"Fault (\d+):", ast.get_docstring(node) or "")
                if number:
                    found[int(number[1])].append(f"{file.name}::{node.name}")
    return found


def test_every_fault_has_exactly_one_test_and_the_readme_lists_it() -> None:
    tests = named_after_faults()
    assert {number for number, names in tests.items() if len(names) != 1} == set()
    rows = re.findall(r"^\| (\d+) \|.*\| `(\w+)` \| \[(\S+)\]", (HERE / "README.md").read_text("utf-8"), re.M)
    assert [(int(n), f"{file}::{name}") for n, name, file in rows] == [
        (n, tests[n][0]) for n in sorted(tests)
    ]


# Gradients: faults 1 to 3


@pytest.mark.parametrize("name", STACKS)
def test_the_gradient_through_n_residual_stages_is_not_multiplied_by_n(name: str) -> None:
    """Fault 1: 8 stages multiplied the gradient by 8."""
    quantizer = make(name, num_codebooks=8, **STACKS[name])
    latents = (0.01 * normal(4, DIM, 16)).requires_grad_()
    quantizer(latents)
    upstream = normal(4, DIM, 16, seed=3)
    got = gradient_of(quantizer(latents).latents, latents, upstream)
    identity = gradient_of(rows_to_latents(quantizer, latents), latents, upstream)
    gain = float((got * identity).sum() / identity.square().sum())
    assert gain == pytest.approx(1.0, abs=1e-4)


def rows_to_latents(quantizer: Quantizer, latents: Tensor) -> Tensor:
    """Latents after `bound`, without quantization."""
    return quantizer.to_code_space(rows(latents)).unflatten(0, (latents.shape[0], -1)).transpose(1, 2)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_the_rotation_in_a_residual_stack_keeps_the_gradient_bounded(distance: str) -> None:
    """Fault 2: with k-means, the gradient of some vectors was 22400 times as long as the incoming one."""
    options = {"codebook_size": 64, "num_codebooks": 8, "estimator": "rotation", "distance": distance}
    quantizer = make("residual_vq", dim=16, **options)
    latents = normal(8, 16, 64).requires_grad_()  # 512 vectors, so some codewords have one vector each
    out, upstream = quantizer(latents), normal(8, 16, 64, seed=3)
    got = gradient_of(out.latents, latents, upstream)
    gain = got.norm(dim=1) / upstream.norm(dim=1)
    limit = 10.0 if distance == "euclidean" else 100.0
    assert float(gain.max()) <= limit * 1.001
    assert torch.equal(quantizer.eval()(latents).latents, quantizer.decode(quantizer.encode(latents)))


@pytest.mark.parametrize("estimator", ["ste", "rotation", "rotation_unscaled"])
@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-6])
def test_a_vector_near_zero_is_quantized_to_its_codeword(estimator: str, scale: float) -> None:
    """Fault 3: a zero vector was quantized to zero instead of its codeword, with a gradient of 1e5."""
    quantizer = make("vq", dim=16, codebook_size=64, init="random", estimator=estimator)
    latents = (scale * normal(1, 16, 5)).requires_grad_()
    before = copy.deepcopy(quantizer).eval()
    out, upstream = quantizer(latents), normal(1, 16, 5, seed=3)
    assert torch.equal(out.latents, before.decode(out.codes))
    gain = gradient_of(out.latents, latents, upstream).norm(dim=1) / upstream.norm(dim=1)
    assert float(gain.max()) <= 10.001


# Initialization of codebooks: faults 4 to 8


@pytest.mark.parametrize("name", ["vq", "residual_vq", "grouped_rotation_vq"])
def test_eval_does_not_initialize_codebooks(name: str) -> None:
    """Fault 4: k-means ran in eval."""
    options = {} if name == "vq" else {"num_codebooks": 2}
    quantizer = make(name, codebook_size=16, init="kmeans", **options).eval()
    before = state(quantizer)
    quantizer(normal(2, DIM, 20))
    quantizer.decode(quantizer.encode(normal(2, DIM, 20)))
    assert_same_state(quantizer, before)
    quantizer.train().encode(normal(2, DIM, 20))
    assert_same_state(quantizer, before)


def test_a_quantizer_in_eval_mode_is_frozen_and_passes_the_gradient() -> None:
    """Fault 5: a frozen codebook was initialized from data."""
    quantizer = make("residual_vq", codebook_size=16, num_codebooks=2)
    model = torch.nn.ModuleList([torch.nn.Conv1d(3, DIM, 1), quantizer]).train()
    quantizer.eval()
    before = state(quantizer)
    model[1](model[0](normal(2, 3, 20))).latents.sum().backward()
    assert_same_state(quantizer, before)
    assert model[0].weight.grad is not None
    assert bool(model[0].weight.grad.any())


@pytest.mark.parametrize("name", PROJECTED)
def test_decode_equals_forward_before_any_training(name: str) -> None:
    """Fault 6: decoding before k-means gave zeros."""
    quantizer = make(name, **PROJECTED[name]).eval()
    latents = normal(2, DIM, 7)
    decoded = quantizer.decode(quantizer.encode(latents))
    assert torch.equal(decoded, quantizer(latents).latents)
    assert bool(decoded.any())


def test_kmeans_of_few_vectors_gives_distinct_codewords() -> None:
    """Fault 7: k-means of 100 vectors for 1024 codewords gave only 101 different codewords."""
    quantizer = make("vq", codebook_size=1024, dead_code_threshold=0.0, decay=0.999)
    quantizer(normal(1, DIM, 100))
    assert len(quantizer.codebook.unique(dim=0)) == 1024
    assert len(quantizer.eval().encode(normal(4, DIM, 1000)).unique()) > 300


@pytest.mark.parametrize("name", PROJECTED)
def test_eval_is_reproducible_and_its_state_loads(name: str) -> None:
    """Fault 8: eval changed statistics, and the state could not be loaded into a new quantizer."""
    quantizer, latents = trained(name, **PROJECTED[name]).eval(), normal(2, DIM, 20)
    first = quantizer(latents)
    assert_same(quantizer(latents), first)
    file = io.BytesIO()
    torch.save(quantizer.state_dict(), file)
    file.seek(0)
    other = make(name, seed=5, **PROJECTED[name]).eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_same(other(latents), first)
    assert torch.equal(other.decode(first.codes), first.latents)


# Layouts and masks: faults 9 to 15


@pytest.mark.parametrize("name", PROJECTED)
def test_decode_equals_forward_with_any_projection(name: str) -> None:
    """Fault 9: spherical, rotated and bridged codebooks decoded to other values, with errors up to 4.9."""
    quantizer, latents = trained(name, **PROJECTED[name]).eval(), 3 * normal(2, DIM, 20)
    out = quantizer(latents)
    assert torch.equal(quantizer.decode(out.codes), out.latents)
    assert torch.equal(quantizer.encode(latents), out.codes)


@pytest.mark.parametrize("name", PROJECTED)
@pytest.mark.parametrize("frames", [1, 5, DIM, 13])  # the number of codebooks, of channels, and others
def test_latents_are_b_d_t_in_forward_encode_and_decode(name: str, frames: int) -> None:
    """Fault 10: codes of channel-first latents could not be decoded, or decoded to wrong values for T = N."""
    quantizer, latents = trained(name, **PROJECTED[name]).eval(), normal(3, DIM, frames)
    codes = quantizer.encode(latents)
    assert codes.shape == (3, quantizer.num_codebooks, frames)
    decoded = quantizer.decode(codes)
    assert decoded.shape == latents.shape
    for t in range(frames):  # decoding frame by frame detects exchanged axes
        torch.testing.assert_close(
            quantizer.decode(codes[:, :, t : t + 1]), decoded[:, :, t : t + 1], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("grouped_vq", {"codebook_size": 16, "num_codebooks": 2}),
        ("grouped_residual_vq", {"codebook_size": 16, "num_codebooks": 2, "num_groups": 2}),
        ("fsq", {"levels": [5, 5], "num_codebooks": 4}),
        ("lfq", {"bits": 2, "num_codebooks": 4}),
        ("residual_vq", {"codebook_size": 16, "num_codebooks": 2, "shared": True}),
    ],
)
def test_several_codebooks_decode_to_the_shape_of_the_latents(name: str, options: dict[str, Any]) -> None:
    """Fault 11: several heads with one codebook decoded to [B, T, heads, D]."""
    quantizer = trained(name, **options).eval()
    assert quantizer.decode(quantizer.encode(normal(3, DIM, 6))).shape == (3, DIM, 6)


@pytest.mark.parametrize("name", PROJECTED)
def test_masks_work_with_projections_and_several_codebooks(name: str) -> None:
    """Fault 12: a mask with codebook_dim or with heads raised RuntimeError in training."""
    quantizer = trained(name, **PROJECTED[name])
    mask = torch.arange(9) < torch.tensor([9, 4, 0])[:, None]
    latents = normal(3, DIM, 9).requires_grad_()
    out = quantizer(latents, mask)
    torch.stack([out.latents.square().sum(), *out.losses.values()]).sum().backward()
    grad = rows(latents.grad)
    assert bool(grad[mask.flatten()].any())
    assert not bool(grad[~mask.flatten()].any())
    assert not bool(out.codes.transpose(1, 2)[~mask].any())


def test_an_all_true_mask_does_not_change_the_cosine_loss() -> None:
    """Fault 13: with a mask, the cosine commitment loss was 104.7, not 0.058: vectors were not normalized."""
    options = {"codebook_size": 16, "distance": "cosine", "dead_code_threshold": 0.0}
    latents = 40 * normal(3, DIM, 9)
    masked = trained("vq", **options)(latents, torch.ones(3, 9, dtype=torch.bool))
    plain = trained("vq", **options)(latents)
    assert_same(masked, plain, 1e-6)
    assert 0 < float(plain.losses["commitment"]) <= 0.25 * 4 / DIM  # a mean over D for vectors of length 1


@pytest.mark.parametrize("name", PROJECTED)
def test_a_batch_without_valid_frames_has_losses_of_zero(name: str) -> None:
    """Fault 14: a batch of padding gave NaN, and an empty batch raised an error."""
    for quantizer in (make(name, **PROJECTED[name]), trained(name, **PROJECTED[name])):
        for batch, frames in ((3, 9), (2, 0), (0, 4)):
            latents = normal(batch, DIM, frames).requires_grad_()
            before = state(quantizer)
            out = quantizer(latents, torch.zeros(batch, frames, dtype=torch.bool))
            assert not bool(out.latents.any())
            for loss, value in out.losses.items():
                assert float(value.detach()) == 0.0, loss
            torch.stack([out.latents.sum(), *out.losses.values()]).sum().backward()
            assert not bool(latents.grad.any())
            assert_same_state(quantizer, before)


@pytest.mark.parametrize("name", ["lfq", "bsq", "residual_lfq"])
def test_an_all_true_mask_does_not_change_the_entropy_loss(name: str) -> None:
    """Fault 15: with an all-true mask, the entropy loss was 0 instead of -4.3."""
    options = {"num_codebooks": 2} if name == "residual_lfq" else {}
    quantizer = make(name, bits=DIM, diversity_weight=2.0, **options)
    latents = normal(3, DIM, 60)
    plain = quantizer(latents)
    assert_same(quantizer(latents, torch.ones(3, 60, dtype=torch.bool)), plain, 1e-6)
    assert float(sum(plain.losses[loss] for loss in ("per_sample_entropy", "codebook_entropy"))) < -0.1
    # masked padding does not change the loss
    longer = torch.cat([latents, 7 + normal(3, DIM, 5)], dim=2)
    mask = (torch.arange(65) < 60).expand(3, -1)
    for loss, value in quantizer(longer, mask).losses.items():
        torch.testing.assert_close(value, plain.losses[loss], rtol=1e-5, atol=1e-6)

"""`torch.compile(fullgraph=True)` equals eager mode: every quantizer in eval, and quantizers without codebook
updates in training.

Most tests use the backend that only traces, which finds graph breaks. Two use inductor.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import codecvq
from codecvq.errors import ShapeError
from codecvq.quantizer import Quantized, Quantizer
from codecvq.quantizer.build import quantizer_names

pytestmark = pytest.mark.slow

DIM = 8
OPTIONS: dict[str, dict[str, Any]] = {
    "vq": {"codebook_size": 16, "codebook_dim": 3},
    "rotation_vq": {"codebook_size": 300, "distance": "cosine"},
    "simvq": {"codebook_size": 16, "estimator": "rotation"},
    "fsq": {"levels": [5, 4]},
    "residual_fsq": {"levels": [5, 4], "num_codebooks": 3},
    "lfq": {"bits": 4},
    "bsq": {"bits": 4},
}
TRAINED_BY_GRADIENT = ("simvq", "fsq", "residual_fsq", "lfq", "bsq")


def plain_name(name: str) -> str:
    return next(known for known in sorted(OPTIONS, key=len, reverse=True) if name.endswith(known))


def make(name: str) -> Quantizer:
    torch.manual_seed(0)
    options = {"dim": DIM, **OPTIONS[plain_name(name)]}
    if name.startswith("grouped_"):
        options["num_groups"] = 2
    if "residual_" in name:
        options["num_codebooks"] = 3
    if "multiscale_" in name:
        options["strides"] = [3, 1]
    quantizer = codecvq.build_quantizer(name, **options)
    quantizer(normal(11))
    return quantizer


def normal(seed: int, frames: int = 20) -> Tensor:
    return torch.randn(2, DIM, frames, generator=torch.Generator().manual_seed(seed))


ALL = [name for name in quantizer_names() if name.endswith(tuple(OPTIONS))]
#: nested forms are tested for one quantizer of each kind
SOME = [
    name
    for name in ALL
    if not name.startswith(("grouped_residual_", "grouped_multiscale_")) or name.endswith(("_vq", "_lfq"))
]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_same(got: Quantized, needed: Quantized, tolerance: float = 0.0) -> None:
    assert torch.equal(got.codes, needed.codes)
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(got.latents, needed.latents, **close)
    torch.testing.assert_close(got.losses, needed.losses, **close)
    torch.testing.assert_close(got.metrics, needed.metrics, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SOME)
def test_eval_is_one_graph_and_equals_eager_mode(name: str) -> None:
    quantizer = make(name).eval()
    latents = normal(3)
    needed = quantizer(latents)
    whole = torch.compile(quantizer, fullgraph=True, backend="eager")
    assert_same(whole(latents), needed)
    encode = torch.compile(quantizer.encode, fullgraph=True, backend="eager")
    decode = torch.compile(quantizer.decode, fullgraph=True, backend="eager")
    assert torch.equal(encode(latents), needed.codes)
    assert torch.equal(decode(needed.codes), needed.latents)


@pytest.mark.parametrize("name", [name for name in SOME if plain_name(name) in TRAINED_BY_GRADIENT])
def test_training_without_codebook_updates_is_one_graph(name: str) -> None:
    quantizer = make(name)
    gradients = []
    for compiled in (False, True):
        twin = copy.deepcopy(quantizer)
        forward = torch.compile(twin, fullgraph=True, backend="aot_eager") if compiled else twin
        latents = normal(3).requires_grad_()
        out = forward(latents)
        torch.stack([out.latents.square().mean(), *out.losses.values()]).sum().backward()
        gradients.append([out.latents.detach(), latents.grad, *(p.grad for p in twin.parameters())])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)


def test_training_with_noise_is_one_graph() -> None:
    quantizer = codecvq.build_quantizer("fsq", dim=DIM, levels=[5, 4], noise_dropout=1.0)
    forward, latents = torch.compile(quantizer, fullgraph=True, backend="aot_eager"), normal(3)
    out = forward(latents)
    assert torch.equal(out.codes, quantizer.encode(latents))
    assert not torch.equal(out.latents, forward(latents).latents)


@pytest.mark.parametrize("name", ["residual_vq", "simvq"])
def test_inductor_gives_the_codes_of_eager_mode(name: str) -> None:
    quantizer = make(name).eval()
    latents = normal(3, frames=75)
    needed = quantizer(latents)
    assert_same(torch.compile(quantizer, fullgraph=True)(latents), needed, tolerance=1e-5)
    encode, decode = (torch.compile(each, fullgraph=True) for each in (quantizer.encode, quantizer.decode))
    assert torch.equal(encode(latents), needed.codes)
    torch.testing.assert_close(decode(needed.codes), needed.latents, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compiled_quantizers_raise_the_errors_of_eager_mode(backend: str) -> None:
    quantizer = make("residual_vq").eval()
    latents, codes = normal(3), torch.full((1, 3, 4), 16)
    decode = torch.compile(quantizer.decode, fullgraph=True, backend=backend)
    with pytest.raises((ShapeError, RuntimeError), match=r"out of range|not in 0"):
        decode(codes)
    latents[0, 0, 0] = torch.nan
    encode = torch.compile(quantizer.encode, fullgraph=True, backend=backend)
    # torch does not enable gradients again after an error in a graph without gradients
    with torch.enable_grad(), pytest.raises(RuntimeError, match="NaN"):
        encode(latents)


def test_one_graph_handles_any_length_of_audio() -> None:
    quantizer = make("residual_vq").eval()
    encode = torch.compile(quantizer.encode, fullgraph=True, backend="eager", dynamic=True)
    for frames in (20, 33, 150):
        latents = normal(frames, frames)
        assert torch.equal(encode(latents), quantizer.encode(latents))

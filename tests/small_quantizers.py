"""Small quantizers of every kind, and helpers for their tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import codecvq
from codecvq.quantizer import Quantized, Quantizer

#: options of a small quantizer of every residual and grouped kind
STACKS: dict[str, dict[str, Any]] = {
    "residual_vq": {"codebook_size": 16},
    "residual_rotation_vq": {"codebook_size": 16, "estimator": "ste"},
    "residual_simvq": {"codebook_size": 16},
    "residual_lfq": {"bits": 8},
    "residual_bsq": {"bits": 8},
    "residual_fsq": {"levels": [5] * 8},
    "grouped_residual_vq": {"codebook_size": 16, "num_groups": 2},
}
#: options of a small quantizer of every kind, with a projection to another dimension
PROJECTED: dict[str, dict[str, Any]] = {
    "vq": {"codebook_size": 16, "codebook_dim": 3},
    "rotation_vq": {"codebook_size": 16, "codebook_dim": 3, "distance": "cosine"},
    "simvq": {"codebook_size": 16, "codebook_dim": 3},
    "fsq": {"levels": [5, 4, 3]},
    "lfq": {"bits": 4},
    "bsq": {"bits": 4},
    "residual_vq": {"codebook_size": 16, "codebook_dim": 3, "num_codebooks": 5},
    "residual_simvq": {"codebook_size": 16, "codebook_dim": 3, "num_codebooks": 5},
    "residual_fsq": {"levels": [5, 4, 3], "num_codebooks": 5},
    "residual_lfq": {"bits": 4, "num_codebooks": 5},
    "residual_bsq": {"bits": 4, "num_codebooks": 5},
    "grouped_vq": {"codebook_size": 16, "codebook_dim": 3, "num_codebooks": 2},
    "grouped_residual_fsq": {"levels": [5, 4, 3], "num_codebooks": 5, "num_groups": 2},
}
DIM = 8
MLP = f"{__name__}:Mlp"  # as the value of an option


class Mlp(nn.Module):
    """A nonlinear map of codewords."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, 16), nn.GELU(), nn.Linear(16, dim))

    def forward(self, codewords: Tensor) -> Tensor:
        return self.layers(codewords)


def make(name: str, seed: int = 0, dim: int = DIM, **options: Any) -> Quantizer:
    torch.manual_seed(seed)
    return codecvq.build_quantizer(name, dim=dim, **options)


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trained(name: str, dim: int = DIM, **options: Any) -> Quantizer:
    quantizer = make(name, dim=dim, **options)
    for seed in (11, 12):
        quantizer(normal(4, dim, 32, seed=seed))
    return quantizer


def rows(latents: Tensor) -> Tensor:
    return latents.transpose(1, 2).flatten(0, 1)


def gradient_of(out: Tensor, latents: Tensor, upstream: Tensor) -> Tensor:
    return torch.autograd.grad((out * upstream).sum(), latents)[0]


def state(quantizer: Quantizer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}


def assert_same_state(quantizer: Quantizer, before: dict[str, Tensor]) -> None:
    for name, tensor in quantizer.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def assert_same(one: Quantized, other: Quantized, tolerance: float = 0.0) -> None:
    assert torch.equal(one.codes, other.codes)
    torch.testing.assert_close(one.latents, other.latents, rtol=tolerance, atol=tolerance)
    for name, loss in one.losses.items():
        torch.testing.assert_close(loss, other.losses[name], rtol=tolerance, atol=tolerance)

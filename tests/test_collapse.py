"""Codebook use in a toy autoencoder with large latents, for which the rotation trick is known to collapse.

Data are 64 numbers that a random network computes from 8 latent ones. The last encoder layer is scaled up,
so k-means places the codewords at a radius that training leaves immediately. Without replacement of dead
codewords, 1 to 60 of the 512 codes stay in use (shared/research/quantizers.md, section 2e).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import codecvq

pytestmark = pytest.mark.slow

OBSERVED, HIDDEN, DIM, CODES = 64, 8, 32, 512
STEPS, BATCH = 1200, 512
LARGE = 7.0  # |z| at the start


def toy_data(seed: int) -> Callable[[int], Tensor]:
    """A function that returns batches `[M, 64]` on a curved 8-dimensional surface."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(HIDDEN, 64, generator=generator) / HIDDEN**0.5
    second = torch.randn(64, OBSERVED, generator=generator) / 8.0
    return lambda count: (torch.randn(count, HIDDEN, generator=generator) @ first).tanh() @ second


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 128), nn.GELU(), nn.Linear(128, outputs))


def train(name: str, seed: int, **options: Any) -> dict[str, float]:
    """Train an autoencoder with the quantizer. Returns used codes, reconstruction error and latent norm."""
    torch.manual_seed(seed)
    batch = toy_data(seed)
    encoder, decoder = mlp(OBSERVED, DIM), mlp(DIM, OBSERVED)
    with torch.no_grad():
        encoder[-1].weight *= LARGE / encoder(batch(BATCH)).norm(dim=1).mean()
    quantizer = codecvq.build_quantizer(name, dim=DIM, codebook_size=CODES, **options)
    model = nn.ModuleList([encoder, quantizer, decoder])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(STEPS):
        data = batch(BATCH)
        out = quantizer(encoder(data).T[None])
        loss = (decoder(out.latents[0].T) - data).square().mean() + sum(out.losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        data = batch(8192)
        latents = encoder(data).T[None]
        out = quantizer(latents)
        error = (decoder(out.latents[0].T) - data).square().mean() / data.square().mean()
    return {
        "used": len(out.codes.unique()),
        "perplexity": float(out.metrics["perplexity"]),
        "error": float(error),
        "length": float(latents.norm(dim=1).mean()),
    }


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["rotation_vq", "vq", "simvq"])
def test_most_codes_are_in_use_with_the_defaults(name: str, seed: int) -> None:
    found = train(name, seed)
    assert found["used"] >= 400, found
    assert found["perplexity"] >= 150, found


def test_a_codebook_without_replacement_collapses() -> None:
    found = train("rotation_vq", 0, dead_code_threshold=0.0)
    assert found["used"] < 300, found

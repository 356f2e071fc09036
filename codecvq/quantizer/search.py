"""Nearest-codeword search, exact and in bounded memory."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 1024  # vectors a tile; with 8192 codewords the tile of scores is 32 MB


@torch.no_grad()
def nearest_codes(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the closest codeword of each vector (Euclidean); ties go to the lowest index.

    Shapes: vectors `[M, D]`, codebook `[K, D]`, both float32 -> int64 `[M]`.

    |z - c|² = |z|² + |c|² - 2 z·c, and |z|² is the same for all c, so the score |c|²/2 - z·c decides. Both
    are centred on the codebook's mean first: far from the origin the two terms would cancel each other's
    digits away.
    """
    centre = codebook.mean(dim=0)
    centred = codebook - centre  # [K, D]
    half_norms = centred.square().sum(dim=1) / 2  # [K]
    codes = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    for start in range(0, len(vectors), ROWS):
        tile = vectors[start : start + ROWS] - centre
        codes[start : start + ROWS] = torch.addmm(half_norms, tile, centred.T, alpha=-1).argmin(dim=1)
    return codes

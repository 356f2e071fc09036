"""Nearest-codeword search, exact and in bounded memory.

The score |c|²/2 - z·c decides, since |z - c|² = |z|² + |c|² - 2 z·c and |z|² is the same for all c. The mean
of the codebook is subtracted from vectors and codewords first: far from the origin, the two terms would
cancel and lose precision.

Scores are computed in tiles, some vectors by some codewords, in one buffer that fits into the cache. Writing
the scores `[M, K]` to memory and reading them back would take longer than computing them. On processors with
bfloat16, a prefilter first selects the codewords that can be nearest.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from codecvq.quantizer import prefilter
from codecvq.quantizer.prefilter import GROUP, CoarseTable

ROWS = 1024  # vectors per tile, at most
TILE = 2**20  # scores per tile on a CPU: 4 MB
TILE_ON_GPU = 2**24  # scores per tile on a GPU, where launching a kernel costs more than the cache saves
MIN_COARSE_CODEWORDS = 512  # smallest codebook with a bfloat16 table
MIN_PREFILTER_SCORES = 2**21  # with fewer scores, the prefilter is slower than float32 alone
INTERVALS = 2**21  # intervals of the prefilter in memory at a time: 8 MB


class SearchTable(NamedTuple):
    """Precomputed data of a codebook; K is padded to whole groups with codewords at infinity."""

    codewords: Tensor  # [K, D], minus the center
    half_norms: Tensor  # [K], |c|²/2
    center: Tensor  # [D]
    coarse: CoarseTable | None  # the codewords in bfloat16, if that speeds up the search


@torch.no_grad()
def search_table(codebook: Tensor, vectors: int | None = None) -> SearchTable:
    """Return the search table of a codebook `[K, D]`.

    `vectors` is the number of vectors to search for; None means many. For few vectors, it omits the bfloat16
    table.
    """
    center = codebook.mean(dim=0)
    codewords = codebook - center
    half_norms = torch.cat([part.square().sum(dim=1) for part in codewords.split(prefilter.PART)]) / 2
    missing = -len(codebook) % GROUP if len(codebook) > GROUP else 0
    if missing:
        codewords = F.pad(codewords, (0, 0, 0, missing))
        half_norms = F.pad(half_norms, (0, missing), value=torch.inf)
    if torch.compiler.is_compiling() or codebook.device.type != "cpu" or not prefilter.has_fast_bfloat16():
        coarse = None
    elif len(codewords) < MIN_COARSE_CODEWORDS or (vectors is not None and vectors < ROWS):
        coarse = None  # computing it would take longer than it saves
    else:
        coarse = prefilter.coarse_table(codewords, half_norms, len(codebook))
    return SearchTable(codewords, half_norms, center, coarse)


@torch.no_grad()
def nearest_codes(vectors: Tensor, codebook: Tensor | SearchTable) -> Tensor:
    """Return the index of the nearest codeword (Euclidean) of each vector; ties go to the lowest index.

    Shapes: vectors `[M, D]`, codebook `[K, D]`, both float32 and finite -> int64 `[M]`. For a codebook that
    is searched often and seldom changes, pass its `search_table`.
    """
    table = codebook if isinstance(codebook, SearchTable) else search_table(codebook, len(vectors))
    if (
        table.coarse is None
        or len(vectors) * len(table.codewords) < MIN_PREFILTER_SCORES
        or torch.compiler.is_compiling()
    ):
        return _nearest_by_tiles(vectors, table)
    codes: list[Tensor] = []
    parts = vectors.split(max(ROWS, INTERVALS // (len(table.codewords) // GROUP)))
    for i, part in enumerate(parts):
        centered = part - table.center
        pairs = prefilter.candidate_groups(centered, table.coarse)
        if pairs is None:  # bfloat16 cannot separate the codewords: skip it for the remaining vectors, too
            return torch.cat([*codes, _nearest_by_tiles(torch.cat(parts[i:]), table)])
        codes.append(prefilter.nearest_in_groups(pairs, centered, table.codewords, table.half_norms))
    return torch.cat(codes)


def _nearest_by_tiles(vectors: Tensor, table: SearchTable) -> Tensor:
    """Search with all scores in float32."""
    rows = max(1, min(ROWS, len(vectors)))
    width = max(GROUP, (TILE_ON_GPU if vectors.is_cuda else TILE) // rows // GROUP * GROUP)
    buffer = vectors.new_empty(rows * width)
    best = vectors.new_full((len(vectors),), torch.inf)
    codes = torch.zeros(len(vectors), dtype=torch.int64, device=vectors.device)
    # outer loop over codewords, so that a part of the codebook stays in the cache
    for first in range(0, len(table.codewords), width):
        part = slice(first, first + width)
        codewords, half_norms = table.codewords[part], table.half_norms[part]
        for top in range(0, len(vectors), rows):
            tile = slice(top, top + rows)
            scores = _scores(vectors[tile] - table.center, codewords, half_norms, buffer)
            least, index = _first_least(scores)
            nearer = least < best[tile]  # strict, so that the first of equals wins
            best[tile] = torch.where(nearer, least, best[tile])
            codes[tile] = torch.where(nearer, index + first, codes[tile])
    return codes


def _scores(rows: Tensor, codewords: Tensor, half_norms: Tensor, buffer: Tensor) -> Tensor:
    """Compute |c|²/2 - z·c in the buffer: centered vectors `[R, D]` and W codewords -> `[R, W]`."""
    if torch.compiler.is_compiling():  # the compiler plans memory itself
        return torch.addmm(half_norms, rows, codewords.T, alpha=-1)
    out = buffer[: len(rows) * len(codewords)].view(len(rows), -1)
    return torch.addmm(half_norms, rows, codewords.T, alpha=-1, out=out)


def _first_least(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least score of each row and its first index: `[R, W]` -> `[R]`, `[R]`.

    torch computes a minimum several times faster than its index, so the index is searched only in the first
    group that contains the minimum.
    """
    if scores.shape[1] <= GROUP:
        return scores.min(dim=1)
    groups = scores.unflatten(1, (-1, GROUP))  # [R, W / GROUP, GROUP]
    group = groups.amin(dim=2).argmin(dim=1)  # [R]
    candidates = groups[torch.arange(len(scores), device=scores.device), group]  # [R, GROUP]
    least, index = candidates.min(dim=1)
    return least, group * GROUP + index


class TensorCache:
    """Caches a value computed from tensors until one of them changes.

    A change is another tensor, another memory address (`module.to`), or a write that autograd counts. Writes
    through `.data` are not detected. A copy of the cache is empty.
    """

    def __init__(self) -> None:
        self._sources: tuple[Tensor, ...] = ()
        self._state: list[tuple[int, int]] = []
        self._value: Any = None

    def get(self, make: Callable[[], Any], *sources: Tensor) -> Any:
        """Return the cached value; calls `make` if one of its `sources` has changed."""
        if torch.compiler.is_compiling() or any(source.is_inference() for source in sources):
            return make()  # these do not count writes
        state = [(source.data_ptr(), source._version) for source in sources]
        if state != self._state or any(map(operator.is_not, sources, self._sources)):
            self._value = make()
            self._sources, self._state = sources, state
        return self._value

    def clear(self) -> None:
        """Discard the value, and release its memory."""
        self._sources, self._state, self._value = (), [], None

    def __deepcopy__(self, memo: dict[int, Any]) -> TensorCache:
        return TensorCache()

    def __reduce__(self) -> tuple[type[TensorCache], tuple[()]]:
        return TensorCache, ()

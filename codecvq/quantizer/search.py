"""Nearest-codeword search, exact and in bounded memory.

|z - c|² = |z|² + |c|² - 2 z·c, and |z|² is the same for all c, so the score |c|²/2 - z·c decides. Vectors and
codewords are centred on the codebook's mean first: far from the origin the two terms would cancel each
other's digits away.

Scores are made tile by tile, some vectors against some codewords, in one buffer that stays in the cache: a
table of all scores `[M, K]` would be written to memory and read back, which takes longer than making it.
On processors with bfloat16 a prefilter first tells which codewords can be the nearest at all.
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

ROWS = 1024  # vectors a tile, at most
TILE = 2**20  # scores a tile on a CPU: 4 MB
TILE_ON_GPU = 2**24  # where the launch of a kernel costs more than a cache saves
MIN_COARSE_CODEWORDS = 512  # codewords with a table in bfloat16
MIN_PREFILTER_SCORES = 2**21  # scores: with fewer, the prefilter's many small steps take longer than float32
INTERVALS = 2**21  # of the prefilter at a time: 8 MB


class SearchTable(NamedTuple):
    """What a search needs of a codebook; K is rounded up to whole groups with codewords at infinity."""

    codewords: Tensor  # [K, D], less the centre
    half_norms: Tensor  # [K], |c|²/2
    center: Tensor  # [D]
    coarse: CoarseTable | None  # the same in bfloat16, where that is of use


@torch.no_grad()
def search_table(codebook: Tensor, vectors: int | None = None) -> SearchTable:
    """The table of a codebook `[K, D]`, to search that many vectors in it; None: many, time and again."""
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
        coarse = None  # to make it would take longer than it saves
    else:
        coarse = prefilter.coarse_table(codewords, half_norms, len(codebook))
    return SearchTable(codewords, half_norms, center, coarse)


@torch.no_grad()
def nearest_codes(vectors: Tensor, codebook: Tensor | SearchTable) -> Tensor:
    """Index of the closest codeword of each vector (Euclidean); ties go to the lowest index.

    Shapes: vectors `[M, D]`, codebook `[K, D]`, both float32 and finite -> int64 `[M]`. Give the codebook's
    `search_table` where it is searched often and seldom changes.
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
        if pairs is None:  # codewords are too near each other for bfloat16: it is no use for the rest either
            return torch.cat([*codes, _nearest_by_tiles(torch.cat(parts[i:]), table)])
        codes.append(prefilter.nearest_in_groups(pairs, centered, table.codewords, table.half_norms))
    return torch.cat(codes)


def _nearest_by_tiles(vectors: Tensor, table: SearchTable) -> Tensor:
    """All scores, in float32."""
    rows = max(1, min(ROWS, len(vectors)))
    width = max(GROUP, (TILE_ON_GPU if vectors.is_cuda else TILE) // rows // GROUP * GROUP)
    buffer = vectors.new_empty(rows * width)
    best = vectors.new_full((len(vectors),), torch.inf)
    codes = torch.zeros(len(vectors), dtype=torch.int64, device=vectors.device)
    # codewords outside, vectors inside: so a part of the codebook stays in the cache
    for first in range(0, len(table.codewords), width):
        part = slice(first, first + width)
        codewords, half_norms = table.codewords[part], table.half_norms[part]
        for top in range(0, len(vectors), rows):
            tile = slice(top, top + rows)
            scores = _scores(vectors[tile] - table.center, codewords, half_norms, buffer)
            least, index = _first_least(scores)
            nearer = least < best[tile]  # never <=: the first of equals stays
            best[tile] = torch.where(nearer, least, best[tile])
            codes[tile] = torch.where(nearer, index + first, codes[tile])
    return codes


def _scores(rows: Tensor, codewords: Tensor, half_norms: Tensor, buffer: Tensor) -> Tensor:
    """|c|²/2 - z·c, in the buffer: centred vectors `[R, D]` and W codewords -> `[R, W]`."""
    if torch.compiler.is_compiling():  # the compiler plans memory by itself
        return torch.addmm(half_norms, rows, codewords.T, alpha=-1)
    out = buffer[: len(rows) * len(codewords)].view(len(rows), -1)
    return torch.addmm(half_norms, rows, codewords.T, alpha=-1, out=out)


def _first_least(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The least score of each row and where it is first: `[R, W]` -> `[R]`, `[R]`.

    torch finds a minimum several times faster than its place, so the place is looked for only in the first
    group that has the minimum.
    """
    if scores.shape[1] <= GROUP:
        return scores.min(dim=1)
    groups = scores.unflatten(1, (-1, GROUP))  # [R, W / GROUP, GROUP]
    group = groups.amin(dim=2).argmin(dim=1)  # [R]
    candidates = groups[torch.arange(len(scores), device=scores.device), group]  # [R, GROUP]
    least, index = candidates.min(dim=1)
    return least, group * GROUP + index


class TensorCache:
    """What was made of some tensors, kept for as long as they do not change.

    A change is another tensor, another place in memory (`module.to`), or a write that autograd counts; a
    write through `.data` is none. A copy of it starts empty.
    """

    def __init__(self) -> None:
        self._sources: tuple[Tensor, ...] = ()
        self._state: list[tuple[int, int]] = []
        self._value: Any = None

    def get(self, make: Callable[[], Any], *sources: Tensor) -> Any:
        """What `make` gives, made again where one of `sources`, of which it is made, has changed."""
        if torch.compiler.is_compiling() or any(source.is_inference() for source in sources):
            return make()  # neither counts its writes
        state = [(source.data_ptr(), source._version) for source in sources]
        if state != self._state or any(map(operator.is_not, sources, self._sources)):
            self._value = make()
            self._sources, self._state = sources, state
        return self._value

    def clear(self) -> None:
        """Keep nothing, and hold no memory."""
        self._sources, self._state, self._value = (), [], None

    def __deepcopy__(self, memo: dict[int, Any]) -> TensorCache:
        return TensorCache()

    def __reduce__(self) -> tuple[type[TensorCache], tuple[()]]:
        return TensorCache, ()

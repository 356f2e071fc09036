"""Nearest-codeword search, exact and in bounded memory.

|z - c|² = |z|² + |c|² - 2 z·c, and |z|² is the same for all c, so the score |c|²/2 - z·c decides. Vectors and
codewords are centred on the codebook's mean first: far from the origin the two terms would cancel each
other's digits away.

Scores are made tile by tile, some vectors against some codewords, in one buffer that stays in the cache: a
table of all scores `[M, K]` would be written to memory and read back, which takes longer than making it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

GROUP = 64  # codewords whose least score is found before it is asked which of them has it
ROWS = 1024  # vectors a tile, at most
TILE = 2**20  # scores a tile on a CPU: 4 MB
TILE_ON_GPU = 2**24  # where the launch of a kernel costs more than a cache saves


class SearchTable(NamedTuple):
    """What a search needs of a codebook, or of a part of one; K is rounded up to whole groups with codewords
    at infinity.
    """

    codewords: Tensor  # [K, D], less the centre
    half_norms: Tensor  # [K], |c|²/2
    centre: Tensor  # [D]


@torch.no_grad()
def search_table(codebook: Tensor) -> SearchTable:
    """The table of a codebook `[K, D]`, for many searches in it."""
    return _table(codebook, codebook.mean(dim=0))


def _table(codebook: Tensor, centre: Tensor) -> SearchTable:
    codewords = codebook - centre
    half_norms = codewords.square().sum(dim=1) / 2
    missing = -len(codebook) % GROUP if len(codebook) > GROUP else 0
    if missing:
        codewords = F.pad(codewords, (0, 0, 0, missing))
        half_norms = F.pad(half_norms, (0, missing), value=torch.inf)
    return SearchTable(codewords, half_norms, centre)


@torch.no_grad()
def nearest_codes(vectors: Tensor, codebook: Tensor | SearchTable) -> Tensor:
    """Index of the closest codeword of each vector (Euclidean); ties go to the lowest index.

    Shapes: vectors `[M, D]`, codebook `[K, D]`, both float32 and finite -> int64 `[M]`. Give the codebook's
    `search_table` where it is searched often and seldom changes.
    """
    if isinstance(codebook, SearchTable):
        size, centre = len(codebook.codewords), codebook.centre
    else:
        size, centre = len(codebook), codebook.mean(dim=0)
    rows = max(1, min(ROWS, len(vectors)))
    width = max(GROUP, (TILE_ON_GPU if vectors.is_cuda else TILE) // rows // GROUP * GROUP)
    buffer = vectors.new_empty(rows * width)
    best = vectors.new_full((len(vectors),), torch.inf)
    codes = torch.zeros(len(vectors), dtype=torch.int64, device=vectors.device)
    for first in range(0, size, width):  # outside: this part of the codebook stays in the cache
        part = _part(codebook, centre, slice(first, first + width))
        for top in range(0, len(vectors), rows):
            tile = slice(top, top + rows)
            least, where = _first_least(_scores(part, vectors[tile] - centre, buffer))
            nearer = least < best[tile]  # never <=: the first of equals stays
            best[tile] = torch.where(nearer, least, best[tile])
            codes[tile] = torch.where(nearer, where + first, codes[tile])
    return codes


def _part(codebook: Tensor | SearchTable, centre: Tensor, which: slice) -> SearchTable:
    if isinstance(codebook, SearchTable):
        return SearchTable(codebook.codewords[which], codebook.half_norms[which], centre)
    return _table(codebook[which], centre)


def _scores(part: SearchTable, rows: Tensor, buffer: Tensor) -> Tensor:
    """|c|²/2 - z·c, in the buffer: centred vectors `[R, D]` and W codewords -> `[R, W]`."""
    if torch.compiler.is_compiling():  # the compiler plans memory by itself
        return torch.addmm(part.half_norms, rows, part.codewords.T, alpha=-1)
    out = buffer[: len(rows) * len(part.codewords)].view(len(rows), -1)
    return torch.addmm(part.half_norms, rows, part.codewords.T, alpha=-1, out=out)


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
    least, place = candidates.min(dim=1)
    return least, group * GROUP + place


class Kept:
    """What was made of some tensors, kept for as long as they do not change.

    A change is another tensor, another place in memory (`module.to`), or a write that autograd counts; a
    write through `.data` is none. A copy of it starts empty.
    """

    def __init__(self) -> None:
        self._sources: tuple[tuple[Tensor, int, int], ...] = ()
        self._made: Any = None

    def get(self, make: Callable[[], Any], *sources: Tensor) -> Any:
        """What `make` gives, made again where one of `sources`, of which it is made, has changed."""
        if torch.compiler.is_compiling() or any(source.is_inference() for source in sources):
            return make()  # neither counts its writes
        if not self._is_made_of(sources):
            self._made = make()
            self._sources = tuple((source, source.data_ptr(), source._version) for source in sources)
        return self._made

    def forget(self) -> None:
        """Keep nothing, and hold no memory."""
        self._sources, self._made = (), None

    def _is_made_of(self, sources: tuple[Tensor, ...]) -> bool:
        if len(sources) != len(self._sources):
            return False
        for source, (kept, place, version) in zip(sources, self._sources, strict=True):
            if source is not kept or source.data_ptr() != place or source._version != version:
                return False
        return True

    def __deepcopy__(self, memo: dict[int, Any]) -> Kept:
        return Kept()

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()

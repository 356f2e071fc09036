"""SimVQ (arXiv:2411.02038): the codebook C is frozen, a linear map W of its space is learned, so every
codeword moves at each step. Any module from vectors to vectors may take W's place.

    e = C Wᵀ        k = argmin_k |z - e_k|²        L = w_commitment |z - sg e_k|² + w_codebook |sg z - e_k|²

Both halves of the loss are there whatever the gradient estimator; decoding applies W too (the authors' own
`get_codebook_entry` does not).
"""

from __future__ import annotations

import copy
import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq import Quantizer, Terms
from codecvq.errors import OptionError
from codecvq.plugins import registry
from codecvq.quantizer import TensorCache, nearest_candidates, nearest_codes, search_table


class SimVQ(Quantizer):
    """Nearest of `codebook_size` codewords that are the linear image of frozen random ones.

    Args: `codebook_dim` dimension of the codewords, with a projection where it is not `dim`; `map` a module
    `[K, D] -> [K, D]` in place of the linear map, or, as recipes can say it, the class of one by name,
    "plugin:Name", which is called with D. It must treat every codeword by itself: a batch norm would
    not, since training maps only the codewords that were chosen.
    """

    frozen: Tensor  # [K, D], N(0, 1/D)

    def __init__(
        self,
        dim: int,
        codebook_size: int = 8192,
        *,
        codebook_dim: int | None = None,
        map: nn.Module | str | None = None,
        commitment_weight: float = 0.25,
        codebook_weight: float = 1.0,
        estimator: str = "ste",
    ) -> None:
        if not isinstance(codebook_size, int) or codebook_size < 2:
            raise OptionError(
                f"simvq: codebook_size is {codebook_size!r}; needed is a whole number from 2 up"
            )
        super().__init__(dim, [codebook_size], code_dim=codebook_dim, estimator=estimator)
        self.commitment_weight, self.codebook_weight = commitment_weight, codebook_weight
        self.register_buffer("frozen", torch.randn(codebook_size, self.code_dim) * self.code_dim**-0.5)
        self.map = _build_map(map, self.code_dim)
        self._codewords_cache, self._search_table_cache = TensorCache(), TensorCache()

    def codewords(self) -> Tensor:
        """The image of the codebook `[K, D]`, without gradient; in eval kept while neither changes."""
        return (
            self._map_codebook()
            if self.training
            else self._codewords_cache.get(self._map_codebook, *self._sources())
        )

    def train(self, mode: bool = True) -> SimVQ:
        """Itself; the kept image of the codebook is dropped."""
        self._codewords_cache.clear()
        self._search_table_cache.clear()
        return super().train(mode)

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest codewords and their indices: `[M, D]` -> `[M, D]`, `[M, 1]`."""
        codes = self.codes_only(vectors)
        return self.dequantize(codes), codes

    def codes_only(self, vectors: Tensor) -> Tensor:
        """Indices of the nearest mapped codewords: `[M, D]` -> `[M, 1]`."""
        if self.training:
            table = search_table(self._map_codebook(), len(vectors))
        else:
            table = self._search_table_cache.get(lambda: search_table(self.codewords()), *self._sources())
        return nearest_codes(vectors.detach(), table)[:, None]

    def dequantize(self, codes: Tensor) -> Tensor:
        """Mapped codewords of indices: `[M, 1]` -> `[M, D]`; in training only the rows asked for are mapped,
        with a gradient.
        """
        if self.training:
            return self.map(F.embedding(codes[:, 0], self.frozen))
        return F.embedding(codes[:, 0], self.codewords())

    def candidates(self, vectors: Tensor, count: int) -> Tensor:
        """The nearest `count` mapped codewords: `[M, D]` -> `[M, count]`."""
        return nearest_candidates(vectors, self.codewords(), count)

    def _sources(self) -> tuple[Tensor, ...]:
        """All that the image is made of. Of the usual map it is named, as to walk through a module takes
        longer than to decode a second of speech.
        """
        if type(self.map) is nn.Linear and self.map.bias is None:
            return self.frozen, self.map.weight
        return self.frozen, *self.map.parameters(), *self.map.buffers()

    @torch.no_grad()
    def _map_codebook(self) -> Tensor:
        return self.map(self.frozen)

    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        """The two halves of the loss, apart."""
        return Terms(
            {
                "commitment": self.commitment_weight * F.mse_loss(vectors, values.detach()),
                "codebook": self.codebook_weight * F.mse_loss(values, vectors.detach()),
            }
        )


def _build_map(given: nn.Module | str | None, dim: int) -> nn.Module:
    """The map of codewords `[K, D]` that the option names. Raises OptionError where it is none."""
    if given is None:
        return nn.Linear(dim, dim, bias=False)
    module = _map_class(given)(dim) if isinstance(given, str) else given
    if not isinstance(module, nn.Module):
        raise OptionError(f"simvq: map is {given!r}; needed is a torch.nn.Module, or 'plugin:Name' of one")
    with torch.no_grad():
        probe = copy.deepcopy(module).eval()(torch.zeros(2, dim))
    if not isinstance(probe, Tensor) or probe.shape != (2, dim):
        made = list(probe.shape) if isinstance(probe, Tensor) else type(probe).__name__
        raise OptionError(
            f"simvq: map makes {made} of [2, {dim}]; it must keep the shape [K, {dim}] of codewords"
        )
    return module


def _map_class(name: str) -> type[nn.Module]:
    """The class at "plugin:Name", of a plugin or module that is loaded. Nothing is imported for it, as a name
    may come from a stranger's config.json, and nothing but a module's class is called.
    """
    where, _, attribute = name.partition(":")
    modules = [sys.modules.get(where), *registry().plugins_of(where)]
    found = next((getattr(module, attribute) for module in modules if hasattr(module, attribute)), None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise OptionError(
            f"simvq: map is {name!r}, which is no class of torch.nn.Module in a loaded plugin. Needed is "
            "'my_map:Name', with --plugin ./my_map.py."
        )
    return found

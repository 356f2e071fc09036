"""SimVQ (arXiv:2411.02038): the codebook C is frozen and a linear map W of its space is learned.

So every codeword moves at each step. Any module from vectors to vectors can replace W.

    e = C Wᵀ        k = argmin_k |z - e_k|²        L = w_commitment |z - sg e_k|² + w_codebook |sg z - e_k|²

Both terms of the loss are used with every gradient estimator. Decoding applies W too (the authors'
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
    """Nearest of `codebook_size` codewords that are a linear image of frozen random ones.

    Args: `codebook_dim` dimension of the codewords, with a projection if it is not `dim`; `map` a module `[K,
    D] -> [K, D]` that replaces the linear map, or, in recipes, the name of its class as "plugin:Name", which
    is called with D. The module must treat each codeword separately. A batch norm does not, because training
    maps only the selected codewords.
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
                f"simvq: codebook_size is {codebook_size!r}; it must be an integer of at least 2"
            )
        super().__init__(dim, [codebook_size], code_dim=codebook_dim, estimator=estimator)
        self.commitment_weight, self.codebook_weight = commitment_weight, codebook_weight
        self.register_buffer("frozen", torch.randn(codebook_size, self.code_dim) * self.code_dim**-0.5)
        self.map = _build_map(map, self.code_dim)
        self._codewords_cache, self._search_table_cache = TensorCache(), TensorCache()

    def codewords(self) -> Tensor:
        """The mapped codebook `[K, D]`, without gradient; in eval it is cached until its sources change."""
        if self.training:
            return self._map_codebook()
        return self._codewords_cache.get(self._map_codebook, *self._sources())

    def train(self, mode: bool = True) -> SimVQ:
        """Set the mode and drop the cached codebook and search table."""
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
        """Mapped codewords of indices: `[M, 1]` -> `[M, D]`.

        In training only the selected codewords are mapped, with a gradient.
        """
        if self.training:
            return self.map(F.embedding(codes[:, 0], self.frozen))
        return F.embedding(codes[:, 0], self.codewords())

    def candidates(self, vectors: Tensor, count: int) -> Tensor:
        """The nearest `count` mapped codewords: `[M, D]` -> `[M, count]`."""
        return nearest_candidates(vectors, self.codewords(), count)

    def _sources(self) -> tuple[Tensor, ...]:
        """All tensors that the mapped codebook depends on.

        The default map is special-cased: iterating over a module's parameters takes longer than decoding a
        second of speech.
        """
        if type(self.map) is nn.Linear and self.map.bias is None:
            return self.frozen, self.map.weight
        return self.frozen, *self.map.parameters(), *self.map.buffers()

    @torch.no_grad()
    def _map_codebook(self) -> Tensor:
        return self.map(self.frozen)

    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        """The two terms of the loss."""
        return Terms(
            {
                "commitment": self.commitment_weight * F.mse_loss(vectors, values.detach()),
                "codebook": self.codebook_weight * F.mse_loss(values, vectors.detach()),
            }
        )


def _build_map(given: nn.Module | str | None, dim: int) -> nn.Module:
    """The module for the option `map`. Raises OptionError if it does not map `[K, D]` to `[K, D]`."""
    if given is None:
        return nn.Linear(dim, dim, bias=False)
    module = _map_class(given)(dim) if isinstance(given, str) else given
    if not isinstance(module, nn.Module):
        raise OptionError(f"simvq: map is {given!r}; it must be a torch.nn.Module, or 'plugin:Name' of one")
    with torch.no_grad():
        probe = copy.deepcopy(module).eval()(torch.zeros(2, dim))
    if not isinstance(probe, Tensor) or probe.shape != (2, dim):
        returned = list(probe.shape) if isinstance(probe, Tensor) else type(probe).__name__
        raise OptionError(
            f"simvq: map returns {returned} for [2, {dim}]; it must preserve the shape [K, {dim}] of "
            "codewords"
        )
    return module


def _map_class(name: str) -> type[nn.Module]:
    """The class named "plugin:Name", from a loaded plugin or module.

    Nothing is imported, because the name may come from an untrusted config.json, and only subclasses of
    torch.nn.Module are accepted. Raises OptionError otherwise.
    """
    plugin_name, _, attribute = name.partition(":")
    modules = [sys.modules.get(plugin_name), *registry().plugins_of(plugin_name)]
    map_class = next((getattr(module, attribute) for module in modules if hasattr(module, attribute)), None)
    if not (isinstance(map_class, type) and issubclass(map_class, nn.Module)):
        raise OptionError(
            f"simvq: map is {name!r}, which is not a torch.nn.Module class of a loaded plugin. Use "
            "'my_map:Name' with --plugin ./my_map.py."
        )
    return map_class

"""SimVQ (arXiv:2411.02038): the codebook C is frozen, a linear map W of its space is learned, so every
codeword moves at each step.

    e = C Wᵀ        k = argmin_k |z - e_k|²        L = w_commitment |z - sg e_k|² + w_codebook |sg z - e_k|²

Both halves of the loss are there whatever the gradient estimator; decoding applies W too (the authors' own
`get_codebook_entry` does not).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq import Quantizer, Terms
from codecvq.errors import OptionError
from codecvq.quantizer import nearest_candidates, nearest_codes
from codecvq.quantizer.search import Kept, SearchTable, search_table


class SimVQ(Quantizer):
    """Nearest of `codebook_size` codewords that are the linear image of frozen random ones.

    Args: `codebook_dim` dimension of the codewords, with a projection where it is not `dim`.
    """

    frozen: Tensor  # [K, D], N(0, 1/D)

    def __init__(
        self,
        dim: int,
        codebook_size: int = 8192,
        *,
        codebook_dim: int | None = None,
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
        self.map = nn.Linear(self.code_dim, self.code_dim, bias=False)
        self._kept = Kept()

    def codewords(self) -> Tensor:
        """The image of the codebook `[K, D]`, without gradient; in eval kept while neither changes."""
        return self._image()[0]

    def train(self, mode: bool = True) -> SimVQ:
        """Itself; the kept image of the codebook is dropped."""
        self._kept.forget()
        return super().train(mode)

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest codewords and their indices: `[M, D]` -> `[M, D]`, `[M, 1]`."""
        codes = self.codes_alone(vectors)
        return self.dequantize(codes), codes

    def codes_alone(self, vectors: Tensor) -> Tensor:
        """Indices of the nearest mapped codewords: `[M, D]` -> `[M, 1]`."""
        return nearest_codes(vectors.detach(), self._image()[1])[:, None]

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

    def _image(self) -> tuple[Tensor, SearchTable]:
        if self.training:
            return self._map_codebook()
        return self._kept.get(self._map_codebook, self.frozen, self.map.weight)

    @torch.no_grad()
    def _map_codebook(self) -> tuple[Tensor, SearchTable]:
        codewords = self.map(self.frozen)
        return codewords, search_table(codewords)

    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        """The two halves of the loss, apart."""
        return Terms(
            {
                "commitment": self.commitment_weight * F.mse_loss(vectors, values.detach()),
                "codebook": self.codebook_weight * F.mse_loss(values, vectors.detach()),
            }
        )

"""Vector quantization (arXiv:1711.00937): the code of a vector is the index of its nearest codeword.

    k = argmin_k |z - e_k|²        L = w_commitment |z - sg e_k|²  +  w_codebook |sg z - e_k|²

The second term is used only if the codebook learns by gradient. With exponential moving averages (appendix
A.1 of the paper) a codeword is the mean of the vectors that chose it:

    n_k <- d n_k + (1 - d) count_k        e_k <- (d n_k e_k + (1 - d) sum_k) / n_k

A dead codeword and its usage are replaced together. (In encodec's code, the moving average overwrites the new
codeword in the same call.) A codeword is dead if it is used less than `dead_code_threshold` times the uniform
usage, so the threshold does not depend on the batch size.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq import Quantizer, Terms
from codecvq.errors import OptionError
from codecvq.quantizer import (
    SearchTable,
    TensorCache,
    from_first_rank,
    gather_rows,
    nearest_candidates,
    nearest_codes,
    search_table,
    sum_over_ranks,
    to_device,
)

KMEANS_ROUNDS = 10
MAX_REPLACED_SHARE = 0.02  # of the codebook per step: replacing all dead codewords at once prevents learning
MIN_NORM = 1e-2  # cosine: shorter vectors are not scaled to length 1, which limits the gradient gain to 100


class VQ(Quantizer):
    """Nearest of `codebook_size` learned codewords.

    Args: `codebook_dim` dimension of the codewords, with a projection if it is not `dim`; `distance`
    "euclidean" or "cosine" (vectors and codewords of length 1); `learn` "ema" or "gradient"; `decay` d of the
    moving average; `init` "kmeans" (of the first training batch) or "random"; `dead_code_threshold` as above,
    0 disables replacement.
    """

    codebook: Tensor  # [K, D]
    usage: Tensor  # [K], moving average of the number of choices per step, over all processes
    started: Tensor  # 0-d bool: the codebook was initialized from data

    def __init__(
        self,
        dim: int,
        codebook_size: int = 1024,
        *,
        codebook_dim: int | None = None,
        distance: Literal["euclidean", "cosine"] = "euclidean",
        learn: Literal["ema", "gradient"] = "ema",
        decay: float = 0.99,
        init: Literal["kmeans", "random"] = "kmeans",
        dead_code_threshold: float = 0.1,
        commitment_weight: float = 0.25,
        codebook_weight: float = 1.0,
        estimator: str = "ste",
    ) -> None:
        _check_options(codebook_size, distance, learn, decay, init)
        super().__init__(dim, [codebook_size], code_dim=codebook_dim, estimator=estimator)
        self.distance, self.learn, self.init = distance, learn, init
        self.decay, self.dead_code_threshold = decay, dead_code_threshold
        self.commitment_weight, self.codebook_weight = commitment_weight, codebook_weight
        codebook = F.normalize(torch.randn(codebook_size, self.code_dim), dim=1)
        if learn == "gradient":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
        self.register_buffer("usage", torch.zeros(codebook_size))
        self.register_buffer("started", torch.tensor(False))
        self._search_table_cache = TensorCache()
        self._started_cache = TensorCache()  # value of `started`, read once instead of in every step
        # Dead codewords replaced in the last step: a metric; a buffer only to follow the module's device.
        self.register_buffer("replaced", torch.zeros(()), persistent=False)

    def bound(self, vectors: Tensor) -> Tensor:
        """Scale vectors to length 1 for the cosine distance; otherwise return them unchanged."""
        return F.normalize(vectors, dim=1, eps=MIN_NORM) if self.distance == "cosine" else vectors

    def codewords(self) -> Tensor:
        """The codewords `[K, D]` that vectors are compared with."""
        return F.normalize(self.codebook, dim=1) if self.distance == "cosine" else self.codebook

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest codewords and their indices: `[M, D]` -> `[M, D]`, `[M, 1]`."""
        if (
            self.training
            and not self.is_frozen
            and not self._started_cache.get(lambda: bool(self.started), self.started)
        ):
            self._initialize_codebook(vectors.detach())  # on all processes, even one without vectors
        codes = self.codes_only(vectors)
        return self.dequantize(codes), codes

    def codes_only(self, vectors: Tensor) -> Tensor:
        """Indices of the nearest codewords: `[M, D]` -> `[M, 1]`."""
        if self.training:
            table = search_table(self.codewords().detach(), len(vectors))
        else:
            table = self._search_table_cache.get(self._search_table, self.codebook)
        return nearest_codes(vectors.detach(), table)[:, None]

    def dequantize(self, codes: Tensor) -> Tensor:
        """Codewords of indices: `[M, 1]` -> `[M, D]`."""
        chosen = F.embedding(codes[:, 0], self.codebook)
        return F.normalize(chosen, dim=1) if self.distance == "cosine" else chosen

    def candidates(self, vectors: Tensor, count: int) -> Tensor:
        """The nearest `count` codewords: `[M, D]` -> `[M, count]`."""
        return nearest_candidates(vectors, self.codewords(), count)

    def train(self, mode: bool = True) -> VQ:
        """Set the mode and drop the cached search table."""
        self._search_table_cache.clear()
        return super().train(mode)

    def terms(self, vectors: Tensor, values: Tensor, codes: Tensor) -> Terms:
        """The commitment loss, and the codebook loss if the codebook learns by gradient."""
        losses = {"commitment": self.commitment_weight * F.mse_loss(vectors, values.detach())}
        if self.learn == "gradient":
            losses["codebook"] = self.codebook_weight * F.mse_loss(values, vectors.detach())
        replaces = self.training and self.dead_code_threshold > 0
        return Terms(losses, {"replaced_codes": self.replaced} if replaces else {})

    def update(self, vectors: Tensor, codes: Tensor) -> None:
        """Update the moving averages, then replace dead codewords."""
        self._search_table_cache.clear()
        index = codes[:, 0]
        counts = sum_over_ranks(_histogram(index, len(self.usage)))
        total = self.decay * self.usage + (1 - self.decay) * counts
        if self.learn == "ema":
            sums = sum_over_ranks(torch.zeros_like(self.codebook).index_add_(0, index, vectors))
            means = (self.decay * self.usage[:, None] * self.codebook + (1 - self.decay) * sums) / total[
                :, None
            ]
            # A codeword that no vector chose does not change.
            self.codebook.copy_(torch.where(counts[:, None] > 0, means, self.codebook))
        self.usage.copy_(total)
        self._replace_dead(vectors)

    def _search_table(self) -> SearchTable:
        return search_table(self.codewords().detach())

    @torch.no_grad()
    def _initialize_codebook(self, vectors: Tensor) -> None:
        """Initialize the codebook from the first vectors of all processes, with k-means by default."""
        vectors = gather_rows(vectors)
        if len(vectors) == 0:  # a residual stage that dropout has not activated for any item yet
            return
        self.started.fill_(True)
        if self.init == "kmeans":
            self.codebook.copy_(_kmeans(vectors, len(self.usage), self.generator))
        else:
            self.codebook.copy_(from_first_rank(self.codebook))
        # Start from uniform usage, so that no codeword counts as dead in the first steps.
        self.usage.fill_(len(vectors) / len(self.usage))

    def _replace_dead(self, vectors: Tensor) -> None:
        """Move the least used codewords, if dead, to vectors of the batch and set their usage to the mean."""
        if self.dead_code_threshold <= 0:
            return
        all_vectors = gather_rows(vectors)
        if len(all_vectors) == 0:
            return
        mean_usage = self.usage.mean()
        max_replaced = max(1, int(MAX_REPLACED_SHARE * len(self.usage)))
        usage, index = self.usage.topk(min(max_replaced, len(all_vectors)), largest=False)
        dead = usage < self.dead_code_threshold * mean_usage
        self.replaced = dead.sum().float()
        drawn = to_device(_sample_indices(len(all_vectors), len(index), self.generator), vectors.device)
        # .data: a pending backward pass is unaffected, because no vector chose these codewords
        self.codebook.data[index] = torch.where(dead[:, None], all_vectors[drawn], self.codebook.data[index])
        self.usage[index] = torch.where(dead, mean_usage, usage)


def _kmeans(vectors: Tensor, size: int, generator: torch.Generator | None) -> Tensor:
    """Cluster centers `[size, D]` of vectors `[M, D]`.

    If M is below `size`, the remaining centers are vectors with a little noise.
    """
    rows = _sample_indices(len(vectors), min(size, len(vectors)), generator).to(vectors.device)
    centers = vectors[rows]
    if len(vectors) < size:
        more = torch.arange(size - len(vectors), device=vectors.device) % len(vectors)
        noise = from_first_rank(torch.randn(len(more), vectors.shape[1], generator=generator)).to(vectors)
        return torch.cat([centers, vectors[more] + 0.01 * vectors.std(unbiased=False) * noise])
    for _ in range(KMEANS_ROUNDS):
        index = nearest_codes(vectors, centers)
        counts = _histogram(index, size)[:, None]
        sums = torch.zeros_like(centers).index_add_(0, index, vectors)
        centers = torch.where(counts > 0, sums / counts.clamp(min=1), centers)
    return centers


def _histogram(index: Tensor, size: int) -> Tensor:
    """Count the values 0 … size - 1 in int64 `index` `[M]`: float `[size]`.

    torch.bincount would synchronize with the GPU to determine its output size.
    """
    return torch.zeros(size, device=index.device).index_add_(
        0, index, index.new_ones((), dtype=torch.float32).expand(len(index))
    )


def _sample_indices(population: int, count: int, generator: torch.Generator | None) -> Tensor:
    """`count` distinct numbers below `population`, the same on every process."""
    return from_first_rank(torch.randperm(population, generator=generator)[:count])


def _check_options(size: int, distance: str, learn: str, decay: float, init: str) -> None:
    if not isinstance(size, int) or size < 2:
        raise OptionError(f"vq: codebook_size is {size!r}; it must be an integer of at least 2")
    choices = {
        "distance": (distance, ("euclidean", "cosine")),
        "learn": (learn, ("ema", "gradient")),
        "init": (init, ("kmeans", "random")),
    }
    for option, (value, allowed) in choices.items():
        if value not in allowed:
            raise OptionError(f"vq: {option} is {value!r}; it must be one of {', '.join(allowed)}")
    if not 0 <= decay < 1:
        raise OptionError(f"vq: decay is {decay}; it must be at least 0 and below 1, such as 0.99")

"""A moving-average codebook that starts with k-means; supports several processes and empty batches."""

import torch
from torch.nn import functional as F

from codecvq import Quantizer, QuantizerSpec, Terms, hookimpl
from codecvq.quantizer import from_first_rank, gather_rows, nearest_codes, sum_over_ranks


class OwnEma(Quantizer):
    """Nearest codewords; each is the decayed mean of the vectors that chose it (arXiv:1711.00937, A.1)."""

    def __init__(
        self, dim, codebook_size=64, *, decay=0.99, rounds=10, commitment_weight=0.25, estimator="ste"
    ):
        super().__init__(dim, [codebook_size], estimator=estimator)
        self.decay, self.rounds, self.commitment_weight = decay, rounds, commitment_weight
        self.register_buffer("codebook", torch.randn(codebook_size, dim))
        self.register_buffer("counts", torch.ones(codebook_size))
        self.register_buffer("started", torch.tensor(False))

    def quantize(self, vectors):  # [M, D] -> values [M, D], codes [M, 1]
        if self.training and not self.is_frozen and not self.started:
            self.start(gather_rows(vectors))  # on all processes, even one without vectors
        codes = nearest_codes(vectors.detach(), self.codebook)[:, None]
        return self.dequantize(codes), codes

    def dequantize(self, codes):  # [M, 1] -> [M, D]
        return F.embedding(codes[:, 0], self.codebook)

    def terms(self, vectors, values, codes):
        return Terms({"commitment": self.commitment_weight * F.mse_loss(vectors, values.detach())})

    @torch.no_grad()
    def start(self, vectors):
        if len(vectors) == 0:
            return
        size = len(self.codebook)
        draws = torch.randint(len(vectors), (size,), generator=self.generator)
        self.codebook.copy_(vectors[from_first_rank(draws)])
        for _ in range(self.rounds):
            counts, sums = self.sums(vectors, nearest_codes(vectors, self.codebook))
            self.codebook.copy_(torch.where(counts > 0, sums / counts.clamp(min=1), self.codebook))
        self.started.fill_(True)

    def sums(self, vectors, codes):  # counts [K, 1] and sums [K, D] of the vectors that chose each codeword
        counts = vectors.new_zeros(len(self.codebook), 1).index_add_(
            0, codes, vectors.new_ones(len(codes), 1)
        )
        return counts, torch.zeros_like(self.codebook).index_add_(0, codes, vectors)

    def update(self, vectors, codes):  # M may be 0 on this process, but not on all
        counts, sums = (sum_over_ranks(part) for part in self.sums(vectors, codes[:, 0]))
        decayed = self.decay * self.counts[:, None]
        total = decayed + (1 - self.decay) * counts
        means = (decayed * self.codebook + (1 - self.decay) * sums) / total.clamp(min=1e-12)
        self.codebook.copy_(torch.where(counts > 0, means, self.codebook))
        self.counts.copy_(total[:, 0])


@hookimpl
def codecvq_quantizers():
    yield QuantizerSpec(
        name="own_ema", factory=OwnEma, summary="moving averages, written out", reference="arXiv:1711.00937"
    )

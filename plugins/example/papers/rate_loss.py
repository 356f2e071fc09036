"""A rate loss: training minimizes bits under a learned code distribution, and `.cvq` files use it."""

import torch
from torch import nn
from torch.nn import functional as F

from codecvq import Quantizer, QuantizerSpec, Terms, hookimpl
from codecvq.quantizer import CodeTables


class RateVQ(Quantizer):
    """The codeword that minimizes |z - c|² + `lagrangian` · bits (ECVQ, doi:10.1109/29.17498)."""

    def __init__(self, dim, codebook_size=64, *, lagrangian=0.02, commitment_weight=0.25, estimator="ste"):
        super().__init__(dim, [codebook_size], estimator=estimator)
        self.lagrangian, self.commitment_weight = lagrangian, commitment_weight
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim) * dim**-0.5)
        self.logits = nn.Parameter(torch.zeros(codebook_size))
        self.tables = CodeTables.uniform(self.codebook_sizes)
        self.register_buffer("frequencies", torch.from_numpy(self.tables.flat))  # integers, saved

    def bits(self):  # [K]
        return -self.logits.log_softmax(dim=0) / torch.tensor(2.0).log()

    def quantize(self, vectors):  # [M, D] -> values [M, D], codes [M, 1]
        with torch.no_grad():
            cost = torch.cdist(vectors, self.codebook).square() + self.lagrangian * self.bits()
        codes = cost.argmin(dim=1, keepdim=True)
        return self.dequantize(codes), codes

    def dequantize(self, codes):  # [M, 1] -> [M, D]
        return F.embedding(codes[:, 0], self.codebook)

    def terms(self, vectors, values, codes):
        rate = self.bits()[codes[:, 0]].mean()
        loss = F.mse_loss(values, vectors.detach()) + self.commitment_weight * F.mse_loss(
            vectors, values.detach()
        )
        return Terms({"codebook": loss, "rate": self.lagrangian * rate}, {"bits": rate})

    def update(self, vectors, codes):  # files are coded with integers, so that decoding is exact
        self.frequencies.copy_((4096 * self.logits.softmax(dim=0)).round().clamp(min=1))

    def code_tables(self):
        return self.tables.with_frequencies(self.frequencies)


@hookimpl
def codecvq_quantizers():
    yield QuantizerSpec(name="rate_vq", factory=RateVQ, summary="codes chosen by error and bit cost")

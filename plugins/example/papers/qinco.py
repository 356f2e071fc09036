"""Implicit neural codebooks (QINCo, arXiv:2401.14732): codewords depend on the earlier stages."""

import torch
from torch import nn
from torch.nn import functional as F

from codecvq import QuantizerSpec, Terms, hookimpl
from codecvq.quantizer import ConditionalQuantizer


class QINCo(ConditionalQuantizer):
    """c + f(c, x) for the codeword c and the sum x of the earlier stages (eq. 4 of the paper, one block)."""

    def __init__(self, dim, codebook_size=16, *, width=32, commitment_weight=0.25, estimator="ste"):
        super().__init__(dim, [codebook_size], estimator=estimator)
        self.commitment_weight = commitment_weight
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim) * dim**-0.5)
        self.bend = nn.Sequential(nn.Linear(2 * dim, width), nn.ReLU(), nn.Linear(width, dim))

    def codewords(self, base, partial_sum):  # [..., D], [..., D] -> [..., D]
        return base + self.bend(torch.cat([base, partial_sum], dim=-1))

    def quantize_given(self, vectors, partial_sum):  # [M, D], [M, D] -> values [M, D], codes [M, 1]
        with torch.no_grad():
            sums = partial_sum[:, None].expand(-1, len(self.codebook), -1)  # [M, K, D]
            distances = (
                (vectors[:, None] - self.codewords(self.codebook.expand_as(sums), sums)).square().sum(dim=2)
            )
        codes = distances.argmin(dim=1, keepdim=True)
        return self.dequantize_given(codes, partial_sum), codes

    def dequantize_given(self, codes, partial_sum):  # [M, 1], [M, D] -> [M, D]
        return self.codewords(F.embedding(codes[:, 0], self.codebook), partial_sum)

    def terms(self, vectors, values, codes):
        commitment = self.commitment_weight * F.mse_loss(vectors, values.detach())
        return Terms({"codebook": F.mse_loss(values, vectors.detach()), "commitment": commitment})


@hookimpl
def codecvq_quantizers():
    yield QuantizerSpec(
        name="qinco",
        factory=QINCo,
        summary="codewords that depend on the partial sum",
        reference="arXiv:2401.14732",
    )

"""Index backpropagation (IBQ, arXiv:2412.02692): a soft choice passes the gradient to every codeword."""

import torch
from torch import nn
from torch.nn import functional as F

from codecvq import Quantizer, QuantizerSpec, Terms, hookimpl


class IBQ(Quantizer):
    """The codeword with the largest dot product: one-hot forward, softmax backward (eq. 5 of the paper)."""

    own_gradient = True

    def __init__(self, dim, codebook_size=64, *, temperature=1.0, commitment_weight=0.25):
        super().__init__(dim, [codebook_size])
        self.temperature, self.commitment_weight = temperature, commitment_weight
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim) * dim**-0.5)

    def quantize(self, vectors):  # [M, D] -> values [M, D], codes [M, 1]
        logits = vectors @ self.codebook.T / self.temperature  # [M, K]
        codes, soft = logits.argmax(dim=1), logits.softmax(dim=1)
        hard = F.one_hot(codes, len(self.codebook)).float()
        choice = hard + (soft - soft.detach())  # the term in brackets is 0 and carries the gradient
        return choice @ self.codebook, codes[:, None]

    def dequantize(self, codes):  # [M, 1] -> [M, D]
        return F.embedding(codes[:, 0], self.codebook)

    def terms(self, vectors, values, codes):
        chosen = self.dequantize(codes)
        loss = F.mse_loss(chosen, vectors.detach()) + self.commitment_weight * F.mse_loss(
            vectors, chosen.detach()
        )
        return Terms({"codebook": loss})


@hookimpl
def codecvq_quantizers():
    yield QuantizerSpec(
        name="ibq",
        factory=IBQ,
        summary="a soft choice trains all codewords",
        reference="arXiv:2412.02692",
    )

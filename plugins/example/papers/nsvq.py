"""Noise substitution (NSVQ, doi:10.1109/ACCESS.2022.3147670): noise of the same length replaces the error."""

import torch
from torch import nn
from torch.nn import functional as F

from codecvq import Quantizer, QuantizerSpec, hookimpl
from codecvq.quantizer import nearest_codes


class NSVQ(Quantizer):
    """z + |z - q| u in training, u a random direction; the length carries the gradient to the codebook."""

    own_gradient = True
    training_values_differ = True

    def __init__(self, dim, codebook_size=64):
        super().__init__(dim, [codebook_size])
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim) * dim**-0.5)

    def quantize(self, vectors):  # [M, D] -> values [M, D], codes [M, 1]
        codes = nearest_codes(vectors.detach(), self.codebook.detach())[:, None]
        values = self.dequantize(codes)
        if not self.training:
            return vectors + (values - vectors).detach(), codes
        device = vectors.device if self.generator is None else self.generator.device
        noise = torch.randn(vectors.shape, generator=self.generator, device=device).to(vectors)
        length = ((vectors - values).square().sum(dim=1, keepdim=True) + 1e-12).sqrt()
        return vectors + length * F.normalize(noise, dim=1), codes

    def dequantize(self, codes):  # [M, 1] -> [M, D]
        return F.embedding(codes[:, 0], self.codebook)


@hookimpl
def codecvq_quantizers():
    yield QuantizerSpec(
        name="nsvq",
        factory=NSVQ,
        summary="noise replaces the quantization error",
        reference="doi:10.1109/ACCESS.2022.3147670",
    )

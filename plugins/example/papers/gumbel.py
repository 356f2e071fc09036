"""Gumbel-softmax (arXiv:1611.01144) with a temperature that falls during training."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from codecvq import Quantizer, QuantizerSpec, Terms, hookimpl


class Gumbel(Quantizer):
    """A code drawn from softmax logits; the soft sample carries the gradient. Eval uses the largest logit."""

    own_gradient = True
    uses_progress = True

    def __init__(
        self, dim, codebook_size=64, *, first_temperature=2.0, last_temperature=0.5, diversity_weight=0.01
    ):
        super().__init__(dim, [codebook_size])
        self.first_temperature, self.last_temperature = first_temperature, last_temperature
        self.diversity_weight = diversity_weight
        self.logits = nn.Linear(dim, codebook_size)
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim) * dim**-0.5)

    @property
    def temperature(self):  # falls geometrically from the first to the last value
        ratio = self.last_temperature / self.first_temperature
        return self.first_temperature * ratio**self.progress.fraction

    def quantize(self, vectors):  # [M, D] -> values [M, D], codes [M, 1]
        logits = self.logits(vectors)
        if self.training:
            device = logits.device if self.generator is None else self.generator.device
            draws = torch.rand(logits.shape, generator=self.generator, device=device).to(logits)
            logits = logits - (-draws.clamp(1e-9, 1 - 1e-7).log()).log()
        codes, soft = logits.argmax(dim=1), (logits / self.temperature).softmax(dim=1)
        hard = F.one_hot(codes, len(self.codebook)).float()
        return (hard + (soft - soft.detach())) @ self.codebook, codes[:, None]

    def dequantize(self, codes):  # [M, 1] -> [M, D]
        return F.embedding(codes[:, 0], self.codebook)

    def terms(self, vectors, values, codes):  # log K minus the entropy of the mean choice, in nats
        mean = self.logits(vectors).softmax(dim=1).mean(dim=0)
        unused = math.log(len(mean)) + (mean * mean.clamp(min=1e-9).log()).sum()
        return Terms({"diversity": self.diversity_weight * unused}, {"unused_nats": unused})


@hookimpl
def codecvq_quantizers():
    yield QuantizerSpec(
        name="gumbel",
        factory=Gumbel,
        summary="random codes at a falling temperature",
        reference="arXiv:1611.01144",
    )

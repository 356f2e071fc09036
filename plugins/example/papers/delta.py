"""Delta quantization over frames (DPCM): each frame is coded as a step from the previous decoded frame."""

import torch
from torch import nn
from torch.nn import functional as F

from codecvq import QuantizerSpec, Terms, hookimpl
from codecvq.quantizer import Reach, SequenceQuantizer


class Delta(SequenceQuantizer):
    """The nearest codeword to z_t - y_(t-1), where y_t is the sum of all steps up to t."""

    reach = Reach(past=None, future=0)  # a frame depends on all earlier frames and on no later one

    def __init__(self, dim, codebook_size=64, *, commitment_weight=0.25, estimator="ste"):
        super().__init__(dim, [codebook_size], estimator=estimator)
        self.commitment_weight = commitment_weight
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim) * dim**-0.5)

    def quantize_items(self, latents, mask):  # [B, D, T], [B, T] -> values [B, D, T], codes [B, 1, T]
        codes = torch.zeros_like(mask, dtype=torch.int64)
        last = latents.new_zeros(latents.shape[:2])  # y_(t-1), [B, D]
        with torch.no_grad():
            for t in range(latents.shape[2]):
                codes[:, t] = torch.cdist(latents[None, :, :, t] - last, self.codebook[None])[0].argmin(dim=1)
                last = last + self.codebook[codes[:, t]] * mask[:, t : t + 1]
        return self.dequantize_items(codes[:, None], mask), codes[:, None]

    def dequantize_items(self, codes, mask):  # [B, 1, T], [B, T] -> [B, D, T]
        steps = F.embedding(codes[:, 0], self.codebook) * mask[:, :, None]
        return steps.cumsum(dim=1).transpose(1, 2)

    def terms(self, vectors, values, codes):
        commitment = self.commitment_weight * F.mse_loss(vectors, values.detach())
        return Terms({"codebook": F.mse_loss(values, vectors.detach()), "commitment": commitment})


@hookimpl
def codecvq_quantizers():
    yield QuantizerSpec(name="delta", factory=Delta, summary="steps from the previous decoded frame")

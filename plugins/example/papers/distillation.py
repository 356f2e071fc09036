"""Semantic distillation of the first codebook (SpeechTokenizer, arXiv:2308.16692 §3.3), written out."""

import torch
from torch import nn
from torch.nn import functional as F

from codecvq import LossSpec, hookimpl
from codecvq.losses import Loss, build_teacher


class FirstCodebook(Loss):
    """-ln σ(cos) of projected latents and teacher features over time, per channel (eq. 1 of the paper).

    The built-in `distillation` adds more distances, exact times, and support for quantizer dropout.
    """

    uses_parts = True

    def __init__(self, sample_rate, teacher="mfcc"):
        super().__init__()
        self.teacher = build_teacher(teacher, sample_rate=sample_rate)

    def setup(self, codec):  # the projection is trained but is not part of the codec
        self.projection = nn.Linear(codec.latent_dim, self.teacher.dim)

    def forward(self, inputs):
        latents = inputs.codebook_part(0)  # [B, D, T]
        with torch.no_grad():
            features = F.interpolate(self.teacher.features(inputs.reference), latents.shape[2], mode="linear")
        projected = self.projection(latents.mT).mT  # [B, F, T]
        return -F.logsigmoid(F.cosine_similarity(projected, features, dim=2)).mean()


@hookimpl
def codecvq_losses():
    yield LossSpec(
        name="first_codebook",
        factory=FirstCodebook,
        summary="brings the first codebook close to a frozen teacher",
        reference="arXiv:2308.16692",
    )

"""Semantic distillation: trains the latents of a codebook to match features of a frozen teacher.

A learned linear map A projects the quantized latents q of one codebook. The loss is the distance of A q from
the features s of the teacher, computed from the recorded audio at the same frames. SpeechTokenizer
(arXiv:2308.16692 §3.3) and Mimi (arXiv:2410.00037 §3.3) use the first codebook. This codebook then encodes
the information in the teacher's features, such as phonemes, and the other codebooks encode the rest. The
teacher and A are only needed in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from codecvq.errors import OptionError
from codecvq.losses.alignment import Alignment
from codecvq.losses.feature_distance import Distance, feature_distance
from codecvq.losses.interface import Loss, LossInputs
from codecvq.losses.teacher import build_teacher

if TYPE_CHECKING:
    from codecvq.api.codec import LatentCodec


class DistillationLoss(Loss):
    """Distance of projected latents of a codebook from the teacher's features, mean over items.

    Args:
        teacher: a name, or a mapping with `name` and options.
        codebook: index of the codebook, from 0, or None for the sum of all codebooks.
        distance: see `codecvq.losses.feature_distance`.
    """

    projection: nn.Linear  # D -> channels of the teacher
    alignment: Alignment

    def __init__(
        self,
        sample_rate: int,
        teacher: str | Mapping[str, Any],
        codebook: int | None = 0,
        distance: Distance = "cosine",
    ) -> None:
        super().__init__()
        if codebook is not None and codebook < 0:
            raise OptionError(
                f"losses.distillation.codebook is {codebook}; it must be 0 or more, or null for all."
            )
        self.codebook, self.kind = codebook, distance
        self.teacher = build_teacher(teacher, sample_rate=sample_rate)

    def setup(self, codec: LatentCodec) -> None:
        """Create the projection from the latents of the codec."""
        if self.codebook is not None and self.codebook >= codec.num_codebooks:
            raise OptionError(
                f"losses.distillation.codebook is {self.codebook}, but the codec has {codec.num_codebooks} "
                "codebooks, numbered from 0."
            )
        if codec.num_codebooks == 1:
            self.codebook = None  # the same as the sum of all, and needs no parts
        self.uses_parts = self.codebook is not None
        self.projection = nn.Linear(codec.latent_dim, self.teacher.dim)
        self.alignment = Alignment(self.teacher, codec.sample_rate, codec.hop_length)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Return the 0-d loss of a batch, in float32 without autocast.

        Items in which quantizer dropout removed the codebook count as 0.
        """
        latents = inputs.quantized if self.codebook is None else inputs.codebook_part(self.codebook)
        assert latents is not None, "the training provides the quantized latents"
        with torch.autocast(latents.device.type, enabled=False):
            with torch.no_grad():
                features = self.teacher.features(inputs.reference.float())
                target = self.alignment(features, latents.shape[2])
            projected = self.projection(latents.float().mT).mT
            return feature_distance(self.kind, projected, target, self._frame_weights(inputs)).mean()

    def _frame_weights(self, inputs: LossInputs) -> Tensor | None:
        """Return `[B, T]`: 1 for valid frames with the codebook active, else 0; None: all frames."""
        counted = inputs.mask
        if inputs.active is not None and self.codebook is not None:
            active = inputs.active[:, self.codebook]
            counted = active if counted is None else counted & active
        return None if counted is None else counted.float()

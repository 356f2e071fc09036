"""`Loss`, the interface of losses, and `LossInputs`, its input in a training step.

A loss defines `forward(inputs) -> 0-d tensor`; a loss that compares decoded with recorded audio defines
`distance(decoded, reference)` of `AudioLoss`. A loss may have trainable modules. Their weights are optimized
with those of the codec and saved in checkpoints, but they are not part of the codec. A frozen network is a
`Teacher` (see `codecvq.losses.teacher`) and is not saved in checkpoints.

Dimensions: B batch, C channels, S samples, D latent channels, T frames, n codebooks in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from codecvq.errors import OptionError
from codecvq.quantizer import Progress

if TYPE_CHECKING:
    from codecvq.api.codec import LatentCodec
    from codecvq.data.clip import Clip


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """The inputs of a loss for one batch.

    Only `decoded` and `reference` are required; the training sets all fields. Floating-point tensors are
    float32, and autocast is off.
    """

    decoded: Tensor  # [B, C, S], with gradient
    reference: Tensor  # [B, C, S], the recorded audio
    latents: Tensor | None = None  # [B, D, T] before the quantizer, with gradient
    quantized: Tensor | None = None  # [B, D, T] after the quantizer, with gradient
    #: contribution of each codebook to `quantized`, `[B, D, T]` each, with gradient; needs `uses_parts`
    parts: tuple[Tensor, ...] | None = None
    codes: Tensor | None = None  # [B, n, T] int64
    active: Tensor | None = None  # [B, n, T] bool: False for codes that dropout removed; None: all True
    mask: Tensor | None = None  # [B, T] bool padding mask: True for valid frames; None: all True
    clips: Sequence[Clip] = ()  # of each item: id, text, speaker; looked up on access
    sample_rate: int = 0  # Hz
    hop_length: int = 0  # samples
    progress: Progress = field(default_factory=Progress)  # current step and total steps

    def codebook_part(self, codebook: int) -> Tensor:
        """Return the contribution `[B, D, T]` of a codebook to the quantized latents.

        It is zero where quantizer dropout removed the codebook. Raises OptionError if it is not available.
        """
        if self.parts is None or codebook >= len(self.parts):
            raise OptionError(
                f"the latents of codebook {codebook} are needed, but "
                f"{'no' if self.parts is None else len(self.parts)} codebooks have separate latents. Set "
                "uses_parts = True in the loss, and use a quantizer whose codebooks add up, such as "
                "residual_vq."
            )
        return self.parts[codebook]


class Loss(nn.Module):
    """Base class of losses. The constructor is called with `sample_rate` and the options of the loss.

    The loss of a batch must be the mean over its items, so that it does not depend on the batch size or on
    the distribution of the batch over processes. Parameters with a gradient are trained with the optimizer of
    the codec and are equal in all processes. Buffers are not synchronized; checkpoints contain those of rank
    0.
    """

    #: True if the loss depends on the codec only through the decoded audio. `losses.balance` balances the
    #: gradients of these losses and adds the others unchanged.
    of_audio: bool = False
    #: True if the loss needs `LossInputs.parts`
    uses_parts: bool = False

    def setup(self, codec: LatentCodec) -> None:
        """Prepare for the codec that is trained. Called once, before the optimizer is created.

        Creates modules that depend on the dimensions of the codec, or raises OptionError. Do not store the
        codec as an attribute: its weights would become parameters of the loss.
        """

    def forward(self, inputs: LossInputs) -> Tensor:
        """Return the 0-d loss of a batch. The training multiplies it by the weight of the loss."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(inputs) -> 0-d loss")


class AudioLoss(Loss):
    """Base class of losses that only compare decoded with recorded audio."""

    of_audio = True

    def forward(self, inputs: LossInputs) -> Tensor:
        """Return the 0-d loss of a batch."""
        return self.distance(inputs.decoded, inputs.reference)

    def distance(self, decoded: Tensor, reference: Tensor) -> Tensor:
        """Return the 0-d loss of audio `[B, C, S]` against `[B, C, S]`."""
        raise NotImplementedError(f"{type(self).__name__} must define distance(decoded, reference) -> loss")

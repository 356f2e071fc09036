"""`Loss`, the interface, and `LossInputs`, what a step of a training gives it.

An author writes `forward(inputs) -> 0-d tensor`, or for a distance of decoded from recorded audio
`distance(decoded, reference)` of `AudioLoss`. A loss may have modules that learn: their weights are optimized
with the codec's, saved in checkpoints, and not part of the codec. A network that does not learn is a
`Teacher` (see `codecvq.losses.teacher`), which no checkpoint holds.

Letters: B batch, C channels, S samples, D latent channels, T frames, N codebooks.
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
    """What a loss may use of a batch. Only the audio is always there: a training fills in all the rest.
    Tensors of floats are float32, and autocast is off.
    """

    decoded: Tensor  # [B, C, S], with gradient
    reference: Tensor  # [B, C, S], the recorded audio
    latents: Tensor | None = None  # [B, D, T] before the quantizer, with gradient
    quantized: Tensor | None = None  # [B, D, T] after it, with gradient
    #: what each codebook adds to `quantized`, `[B, D, T]` each, with gradient: for losses with `uses_parts`
    parts: tuple[Tensor, ...] | None = None
    codes: Tensor | None = None  # [B, n, T] int64
    active: Tensor | None = None  # [B, n, T] bool: what quantizer dropout kept; None: all
    mask: Tensor | None = None  # [B, T] bool: True for real frames; None: all are
    clips: Sequence[Clip] = ()  # of each item: id, text, speaker; looked up when an item is read
    sample_rate: int = 0  # Hz
    hop_length: int = 0  # samples
    progress: Progress = field(default_factory=Progress)  # step, and steps in all

    def codebook_part(self, codebook: int) -> Tensor:
        """What codebook number `codebook` adds to the quantized latents: `[B, D, T]`, zeros where quantizer
        dropout left it out.
        """
        if self.parts is None or codebook >= len(self.parts):
            raise OptionError(
                f"latents of codebook {codebook} are needed, but there are "
                f"{'none' if self.parts is None else len(self.parts)} by codebook. Set uses_parts = True in "
                "the loss, and take a quantizer whose codebooks add up, as residual_vq."
            )
        return self.parts[codebook]


class Loss(nn.Module):
    """Base class of losses. The constructor is called with `sample_rate` and the loss's options as keywords.

    The loss of a batch is a mean over its items: then it does not depend on the batch size, nor on how a
    batch is spread over processes. Parameters that have a gradient are trained with the codec's optimizer,
    and are equal in all processes. Buffers are not synchronized; checkpoints hold those of the first process.
    """

    #: True where the loss depends on the codec through the decoded audio alone. `losses.balance` shares out
    #: the gradients of these, and adds the others as they are.
    of_audio: bool = False
    #: True where the loss needs `LossInputs.parts`
    uses_parts: bool = False

    def setup(self, codec: LatentCodec) -> None:
        """Called once, before the optimizer is made, with the codec that is trained: to make modules of its
        dimensions, or to raise OptionError. Do not keep the codec: its weights would count as the loss's.
        """

    def forward(self, inputs: LossInputs) -> Tensor:
        """0-d loss of a batch, without its weight."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(inputs) -> 0-d loss")


class AudioLoss(Loss):
    """Base class of losses that compare the decoded with the recorded audio and need nothing else."""

    of_audio = True

    def forward(self, inputs: LossInputs) -> Tensor:
        """0-d loss of a batch."""
        return self.distance(inputs.decoded, inputs.reference)

    def distance(self, decoded: Tensor, reference: Tensor) -> Tensor:
        """0-d loss of audio `[B, C, S]` against `[B, C, S]`."""
        raise NotImplementedError(f"{type(self).__name__} must define distance(decoded, reference) -> loss")

"""`Network`: an encoder and a decoder that fit each other. `Discriminator`: what judges them in training."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import Tensor, nn

from codecvq.api.reach import Reach
from codecvq.errors import ShapeError
from codecvq.quantizer import Quantizer


@dataclass(frozen=True)
class AudioWithLosses:
    """What a decoder that takes the recording may give in training: the audio, and losses of its own."""

    wav: Tensor  # [B, C, T * hop]
    losses: dict[str, Tensor]  # 0-d each, weighted


@dataclass(frozen=True)
class Network:
    """What a network plugin makes.

    `encoder(wav, mask)`: `[B, C, S]` with S a multiple of the hop, mask `[B, T]` bool or None -> latents `[B,
    D, T]`, T = S/hop. `decoder(latents, mask)`: `[B, D, T]` -> `[B, C, T * hop]`. With a mask, what stands at
    padded frames changes nothing at real ones. T is at least 1. Both may have a `reach`, without which they
    are not known to stream. A decoder whose attribute `uses_target_audio` is true is called in training with
    the audio that it is to make, as `decoder(latents, mask, wav)`: where its codes do not tell what the
    losses see, as phases, it may take that from there; and it may give `AudioWithLosses` in place of audio,
    which are added to the other losses as they are, under "decoder/" and their name. `check` is asked of the
    quantizer when a codec is made.
    """

    encoder: nn.Module
    decoder: nn.Module
    dim: int  # D
    hop_length: int  # samples a frame
    #: raises OptionError for a quantizer that does not keep what the decoder needs; None: any will do
    check: Callable[[Quantizer], None] | None = None
    #: names of options that change the decoder only: codes keep their identity when these change
    decoder_options: Collection[str] = ()

    @property
    def encoder_reach(self) -> Reach | None:
        """In samples; None where it is not known."""
        return getattr(self.encoder, "reach", None)

    @property
    def decoder_reach(self) -> Reach | None:
        """In frames; None where it is not known."""
        return getattr(self.decoder, "reach", None)

    @property
    def lookahead(self) -> int | None:
        """Samples behind the end of its frame that decoded audio hangs on; None where it is not known. Audio
        comes out of a stream this much, and a hop, later than it goes in.
        """
        encoder, decoder = self.encoder_reach, self.decoder_reach
        if encoder is None or decoder is None:
            return None
        return encoder.future + decoder.future * self.hop_length

    @property
    def receptive_field(self) -> int | None:
        """Samples that a frame of decoded audio hangs on, its own among them; None where it is not known, or
        is everything before.
        """
        encoder, decoder, future = self.encoder_reach, self.decoder_reach, self.lookahead
        if encoder is None or decoder is None or future is None:
            return None
        if encoder.past is None or decoder.past is None:
            return None
        return encoder.past + decoder.past * self.hop_length + self.hop_length + future


def zero_padding(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """`hidden` `[B, T, X]` with zeros at padded frames, so that a convolution sees there what it sees beyond
    the end.
    """
    return hidden if mask is None else hidden * mask[:, :, None].to(hidden.dtype)


@dataclass(frozen=True)
class DiscriminatorOutput:
    """What one part of a discriminator makes of audio."""

    scores: Tensor  # any shape [B, …]: higher is more like recorded audio
    features: tuple[Tensor, ...]  # of its inner layers, each [B, …]


class Discriminator(nn.Module):
    """What a discriminator plugin makes: `discriminate` gives a list, one a resolution or period.

    Args: `min_samples` the shortest audio that it can judge.
    """

    def __init__(self, min_samples: int) -> None:
        super().__init__()
        self.min_samples = min_samples

    def forward(self, wav: Tensor) -> list[DiscriminatorOutput]:
        """Judgements of audio `[B, C, S]`."""
        self.check_length(wav.shape[2])
        return self.discriminate(wav)

    def check_length(self, samples: int) -> None:
        """Raise ShapeError for audio that is too short to judge."""
        if samples < self.min_samples:
            raise ShapeError(
                f"{type(self).__name__} judges at least {self.min_samples} samples, and was given {samples}. "
                "Train on longer segments (corpus.segment_s), or take shorter windows."
            )

    def discriminate(self, wav: Tensor) -> list[DiscriminatorOutput]:
        """As `forward`, for a plugin to define."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say how it judges: define discriminate(wav)"
        )

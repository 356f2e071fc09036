"""`Network`, a pair of encoder and decoder, and `Discriminator`: the interfaces of network plugins."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from codecvq.api.reach import Reach
from codecvq.errors import ShapeError, StreamingError
from codecvq.quantizer import Quantizer
from codecvq.streaming import StreamingModule, Windows, exact_stream


@dataclass(frozen=True)
class AudioWithLosses:
    """Output of a decoder that adds losses in training."""

    wav: Tensor  # [B, C, T * hop]
    losses: dict[str, Tensor]  # name -> weighted 0-d tensor


@dataclass(frozen=True)
class Network:
    """Encoder and decoder, as a network plugin returns them.

    `encoder(wav, mask)` maps audio `[B, C, S]` to latents `[B, D, T]`; S is a multiple of the hop length, and
    T = S / hop_length. `decoder(latents, mask)` maps latents `[B, D, T]` to audio `[B, C, T * hop_length]`.
    The padding mask is bool `[B, T]`, or None; padding frames must not affect valid ones. T is at least 1.

    Both modules may have an attribute `reach` (`Reach`): in samples for the encoder, in frames for the
    decoder. With it, they stream by overlapping windows. A module with exact state also has a method
    `as_stream()`, which returns a `codecvq.streaming.StreamingModule`, or None if its options exclude it.
    Without either, streaming is unavailable.

    If latents depend on a whole recording, the encoder can have methods `survey(recording)` and
    `as_stream(survey)`; see `survey`. Then it encodes recordings of any length that can be read twice.

    If the decoder has a true attribute `uses_target_audio`, training calls it as
    `decoder(latents, mask, wav)` with the audio to reconstruct. The decoder may read information from it that
    codes do not contain, such as phases. Such a decoder may return `AudioWithLosses` instead of audio;
    training adds these losses, without further weights, under "decoder/" and their name.
    """

    encoder: nn.Module
    decoder: nn.Module
    dim: int  # number of latent channels D
    hop_length: int  # samples per frame
    #: Called with the quantizer when a codec is built. Raises OptionError if the quantizer does not preserve
    #: information that the decoder needs. None: accepts all quantizers.
    check: Callable[[Quantizer], None] | None = None
    #: Names of options that affect only the decoder. Changing them does not change the identity of codes.
    decoder_options: Collection[str] = ()

    @property
    def encoder_reach(self) -> Reach | None:
        """Left context and lookahead of the encoder in samples; None if unknown."""
        return getattr(self.encoder, "reach", None)

    @property
    def decoder_reach(self) -> Reach | None:
        """Left context and lookahead of the decoder in frames; None if unknown."""
        return getattr(self.decoder, "reach", None)

    def survey(self, recording: Callable[[], Iterable[Tensor]]) -> Tensor | None:
        """Return what the encoder needs to know of a whole recording to stream it; None if it is nothing.

        `recording` returns blocks of audio `[1, C, S]` from the beginning; it can be called several times.
        """
        survey: Callable[..., Tensor | None] | None = getattr(self.encoder, "survey", None)
        return None if survey is None else survey(recording)

    def encoder_stream(self, survey: Tensor | None = None) -> StreamingModule:
        """Return the encoder as a stream: audio `[B, C, n]` -> latents `[B, D, m]`.

        With the `survey` of a recording, the stream encodes that recording. Raises StreamingError if it
        cannot stream.
        """
        if survey is not None:
            if not hasattr(self.encoder, "survey"):
                raise StreamingError("the encoder uses no survey. Omit it.")
            stream: StreamingModule = self.encoder.as_stream(survey)  # type: ignore[operator]
            return stream
        return _as_stream("encoder", self.encoder, self.encoder_reach, self.hop_length, 1)

    def decoder_stream(self) -> StreamingModule:
        """Return the decoder as a stream: latents `[B, D, n]` -> audio `[B, C, m * hop_length]`.

        Raises StreamingError if it cannot stream.
        """
        return _as_stream("decoder", self.decoder, self.decoder_reach, 1, self.hop_length)

    @property
    def lookahead(self) -> int | None:
        """Number of samples after a frame that its decoded audio depends on; None if unknown.

        A stream delays audio by this number plus one hop.
        """
        encoder, decoder = self.encoder_reach, self.decoder_reach
        if encoder is None or decoder is None:
            return None
        return encoder.future + decoder.future * self.hop_length

    @property
    def receptive_field(self) -> int | None:
        """Number of samples on which a frame of decoded audio depends, including its own.

        None if unknown, or if the frame depends on all earlier samples.
        """
        encoder, decoder, future = self.encoder_reach, self.decoder_reach, self.lookahead
        if encoder is None or decoder is None or future is None:
            return None
        if encoder.past is None or decoder.past is None:
            return None
        return encoder.past + decoder.past * self.hop_length + self.hop_length + future


def _as_stream(
    what: str, module: nn.Module, reach: Reach | None, samples_in: int, samples_out: int
) -> StreamingModule:
    exact = exact_stream(module)
    if exact is not None:
        return exact
    if reach is None:
        raise StreamingError(
            f"the {what} {type(module).__name__} declares no reach, the samples or frames on which "
            "its output depends. Declare `reach`, define as_stream(), or process whole recordings."
        )
    try:
        return Windows(
            lambda signal: module(signal, None), reach, samples_in=samples_in, samples_out=samples_out
        )
    except StreamingError as error:
        raise StreamingError(f"the {what} {type(module).__name__}: {error}") from error


def zero_padding(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Return `hidden` `[B, T, X]` with zeros at padding frames.

    Convolutions then get the same input at padding frames as after the end of the batch.
    """
    return hidden if mask is None else hidden * mask[:, :, None].to(hidden.dtype)


@dataclass(frozen=True)
class DiscriminatorOutput:
    """Output of one part of a discriminator, for example of one resolution."""

    scores: Tensor  # [B, …]: higher means more like recorded audio
    features: tuple[Tensor, ...]  # outputs of hidden layers, [B, …] each


class Discriminator(nn.Module):
    """Base class of discriminators. Subclasses implement `discriminate`.

    Args:
        min_samples: Length of the shortest audio that the discriminator accepts.
    """

    def __init__(self, min_samples: int) -> None:
        super().__init__()
        self.min_samples = min_samples

    def forward(self, wav: Tensor) -> list[DiscriminatorOutput]:
        """Return one output per resolution or period for audio `[B, C, S]`.

        Raises ShapeError for audio shorter than `min_samples`.
        """
        self.check_length(wav.shape[2])
        return self.discriminate(wav)

    def check_length(self, samples: int) -> None:
        """Raise ShapeError for audio shorter than `min_samples`."""
        if samples < self.min_samples:
            raise ShapeError(
                f"{type(self).__name__} needs at least {self.min_samples} samples, given are {samples}. "
                "Train on longer segments (corpus.segment_s), or use shorter windows."
            )

    def discriminate(self, wav: Tensor) -> list[DiscriminatorOutput]:
        """Return one output per resolution or period for audio `[B, C, S]`; subclasses implement it."""
        raise NotImplementedError(f"{type(self).__name__} must define discriminate(wav)")

"""`FramedCodec`: the common base of `Codec` and `WrappedCodec`.

It implements rates, argument checks, resampling, padding to whole frames, padding masks and exact output
lengths. Subclasses implement encoding and decoding of whole frames.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from codecvq.arguments import (
    check_finite,
    checked_codes,
    checked_lengths,
    checked_num_codebooks,
    checked_num_samples,
    checked_sample_rate,
    checked_wav,
)
from codecvq.codec.concealment import repeat_last
from codecvq.codec.streams import StreamDecoder, StreamEncoder
from codecvq.errors import ShapeError
from codecvq.streaming import StreamingModule


@dataclass(frozen=True)
class OutputLength:
    """The length of decoded audio: `num_samples` of the batch, and `lengths` `[B]` of its items."""

    num_samples: int
    lengths: Tensor | None
    mask: Tensor | None  # [B, T]: frames with at least one valid sample

    def trim(self, wav: Tensor) -> Tensor:
        """Zero the audio `[B, C, T * hop]` after each item's length, and cut it to `[B, C, num_samples]`."""
        if self.lengths is not None:
            wav = zero_after(wav, self.lengths)
        return wav[:, :, : self.num_samples]


class FramedCodec(ABC):
    """Base class of codecs.

    Subclasses set the attributes `name`, `sample_rate` in Hz, `channels`, and `hop_length` in samples per
    frame.
    """

    name: str
    sample_rate: int
    channels: int
    hop_length: int

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the computation."""

    @property
    @abstractmethod
    def codebook_sizes(self) -> tuple[int, ...]:
        """Size K of each codebook."""

    @property
    @abstractmethod
    def strides(self) -> tuple[int, ...]:
        """Frames per code of each codebook."""

    @abstractmethod
    def _encode_padded(self, wav: Tensor, mask: Tensor | None, num_codebooks: int | None) -> Tensor:
        """Encode whole frames: `[B, C, T * hop]`, mask `[B, T]` -> int64 `[B, n, T]`, 0 in padding frames.

        T can be 0.
        """

    @abstractmethod
    def _decode_padded(self, codes: Tensor, mask: Tensor | None) -> Tensor:
        """Decode whole frames: int64 `[B, n, T]`, mask `[B, T]` -> float32 `[B, C, T * hop]`. T can be 0."""

    @abstractmethod
    def _survey(self, recording: Callable[[], Iterable[Tensor]]) -> Tensor | None:
        """Return what `_encoder_stream` needs to know of a recording, valid blocks `[1, C, n]`; or None."""

    @abstractmethod
    def _encoder_stream(self, num_codebooks: int, survey: Tensor | None) -> StreamingModule:
        """Return a stream from audio `[B, C, n]` to codes `[B, num_codebooks, m]`. Raises StreamingError."""

    @abstractmethod
    def _decoder_stream(self) -> StreamingModule:
        """Return a stream from codes `[B, N, n]` to audio `[B, C, m]`. Raises StreamingError."""

    @property
    @abstractmethod
    def latency_samples(self) -> int | None:
        """Algorithmic latency in samples; None if the codec declares no reach."""

    @property
    def frame_rate(self) -> Fraction:
        """Exact frames per second: sample rate / hop length."""
        return Fraction(self.sample_rate, self.hop_length)

    @property
    def num_codebooks(self) -> int:
        """Number of codebooks N."""
        return len(self.codebook_sizes)

    @property
    def bitrate(self) -> float:
        """Nominal bits per second: frame rate times the sum of log2(K) / stride."""
        sizes = zip(self.codebook_sizes, self.strides, strict=True)
        return float(self.frame_rate) * sum(math.log2(size) / stride for size, stride in sizes)

    @torch.no_grad()
    def encode(
        self,
        wav: Tensor,
        sample_rate: int | None = None,
        lengths: Tensor | None = None,
        num_codebooks: int | None = None,
    ) -> Tensor:
        """Encode audio `[B, C, S]` to codes, int64 `[B, n, T]`, T = ceil(S / hop).

        Audio at another `sample_rate` (Hz) is resampled. `lengths` `[B]` are the numbers of valid samples of
        the items, before resampling. Frames after ceil(length / hop) are padding: their codes are 0, and they
        do not affect valid frames. `num_codebooks` is n, by default all. The computation is in float32,
        independent of torch's global settings. Raises ShapeError for arguments of the wrong type, shape or
        range, NonFiniteError for NaN or infinity in the audio.
        """
        wav, mask = self._pad_to_frames(wav, sample_rate, lengths)
        return self._encode_padded(wav, mask, num_codebooks)

    @torch.no_grad()
    def decode(self, codes: Tensor, num_samples: int | None = None, lengths: Tensor | None = None) -> Tensor:
        """Decode codes, integers `[B, n, T]` of any type, to audio, float32 `[B, C, num_samples]`.

        `num_samples` is T * hop by default. `lengths` `[B]` are the numbers of valid samples of the items of
        a padded batch; later samples are 0. The computation is in float32, independent of torch's global
        settings. Raises ShapeError for arguments of the wrong type, shape or range.
        """
        codes = checked_codes(codes, self.num_codebooks).to(self.device)
        length = self._output_length(len(codes), codes.shape[2], num_samples, lengths)
        return length.trim(self._decode_padded(codes, length.mask))

    @torch.no_grad()
    def survey(self, recording: Callable[[], Iterable[Tensor]]) -> Tensor | None:
        """Return what `stream_encoder` needs to know of a whole recording; None for most codecs.

        Some codes depend on a whole recording, such as a pitch that is tracked through all frames. The survey
        contains this part, in a few bytes per frame. `recording` returns blocks of audio `[1, C, S]` at the
        sample rate of the codec, from the beginning, and can be called several times. The memory does not
        depend on the length of the recording. Raises ShapeError for blocks of another shape, NonFiniteError
        for NaN or infinity.
        """
        return self._survey(lambda: (self._surveyed_block(block) for block in recording()))

    def _surveyed_block(self, block: Tensor) -> Tensor:
        wav = checked_wav(block, self.channels)
        if len(wav) != 1:
            raise ShapeError(
                f"the recording has blocks of {len(wav)} items; needed is one, [1, C, S]. Make a survey of "
                "each recording."
            )
        check_finite("samples", wav)
        return wav.to(self.device)

    def stream_encoder(
        self, batch: int = 1, num_codebooks: int | None = None, survey: Tensor | None = None
    ) -> StreamEncoder:
        """Return an encoder for `batch` independent streams, with the first `num_codebooks` codebooks.

        Its codes equal those of `encode` for the whole recordings. With the `survey` of a recording, `batch`
        is 1, and the encoder encodes this recording, any number of times. Raises StreamingError, with the
        reason, if the codec cannot encode streams, or not without a survey.
        """
        depth = checked_num_codebooks(num_codebooks, self)  # type: ignore[arg-type]
        if survey is not None and batch != 1:
            raise ShapeError(f"batch is {batch}; with the survey of one recording, needed is 1.")
        return StreamEncoder(self, self._encoder_stream(depth, survey), batch, depth)

    def stream_decoder(self, batch: int = 1) -> StreamDecoder:
        """Return a decoder for `batch` independent streams.

        Its samples equal those of `decode` for the whole recordings. Raises StreamingError, with the reason,
        if the codec cannot decode streams.
        """
        return StreamDecoder(self, self._decoder_stream(), batch)

    def conceal(self, codes: Tensor, frames: int) -> Tensor:
        """Return codes `[1, n, frames]` in place of lost frames after the codes `[1, n, k]`, k ≥ 1.

        By default, the last codes are repeated. Override it for better codes. The stream decoder calls it for
        each part of a loss; `codes` then ends with those of the earlier parts, and has about 200 ms.
        """
        return repeat_last(codes, frames)

    @property
    def latency_ms(self) -> float | None:
        """Algorithmic latency in milliseconds: lookahead plus hop. None if the codec declares no reach.

        Decoded audio up to time t depends on no audio from t + latency on.
        """
        samples = self.latency_samples
        return None if samples is None else 1000 * samples / self.sample_rate

    def frame_mask(self, lengths: Tensor | None, num_samples: int) -> Tensor | None:
        """Return the padding mask `[B, T]` of lengths `[B]`, True for frames with valid samples; or None."""
        if lengths is None:
            return None
        frames = -(-lengths.to(self.device) // self.hop_length)
        return torch.arange(num_samples // self.hop_length, device=self.device) < frames[:, None]

    def _pad_to_frames(
        self, wav: Tensor, sample_rate: int | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Resample audio, zero-pad it to whole frames and move it to the device.

        Returns the audio `[B, C, T * hop]` and its mask `[B, T]`. The arguments are the same as for `encode`.
        """
        wav, rate = checked_wav(wav, self.channels), checked_sample_rate(sample_rate, self.sample_rate)
        lengths = checked_lengths(lengths, len(wav), wav.shape[2], "the audio has no more samples")
        if lengths is not None:  # samples in the padding may be arbitrary, and resampling would spread them
            wav = zero_after(wav, lengths)
        wav, lengths = self._resample(wav, rate, lengths)
        if lengths is not None:
            wav = zero_after(wav, lengths)
        wav = nn.functional.pad(wav, (0, -wav.shape[2] % self.hop_length))
        return wav.to(self.device), self.frame_mask(lengths, wav.shape[2])

    def _resample(
        self, wav: Tensor, sample_rate: int, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if sample_rate == self.sample_rate:
            return wav, lengths
        from codecvq.audio import resample

        resampled = torch.from_numpy(resample(wav.cpu().numpy(), sample_rate, self.sample_rate)).to(
            wav.device
        )
        if lengths is not None:
            lengths = -(-lengths * self.sample_rate // sample_rate)
        return resampled, lengths

    def _output_length(
        self, batch: int, frames: int, num_samples: int | None, lengths: Tensor | None
    ) -> OutputLength:
        """Return the output length of a batch; the arguments are the same as for `decode`."""
        maximum = frames * self.hop_length
        num_samples = checked_num_samples(num_samples, frames, self.hop_length)
        lengths = checked_lengths(lengths, batch, maximum, f"{frames} frames have no more samples")
        return OutputLength(num_samples, lengths, self.frame_mask(lengths, maximum))


def zero_after(wav: Tensor, lengths: Tensor) -> Tensor:
    """Return the audio `[B, C, S]` with zeros after `lengths` `[B]`."""
    valid = torch.arange(wav.shape[2], device=wav.device) < lengths.to(wav.device)[:, None, None]
    return torch.where(valid, wav, 0.0)

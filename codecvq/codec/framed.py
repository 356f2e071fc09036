"""`FramedCodec`: what every codec with codes has in common, so that it is written once.

That is rates, checks of arguments, resampling, padding to whole frames, masks and exact lengths. `Codec` and
`WrappedCodec` say how whole frames become codes, and codes whole frames.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from codecvq.arguments import (
    checked_codes,
    checked_lengths,
    checked_num_samples,
    checked_sample_rate,
    checked_wav,
)


@dataclass(frozen=True)
class OutputLength:
    """Where decoded audio ends: `num_samples` of the batch, `lengths` `[B]` of its items."""

    num_samples: int
    lengths: Tensor | None
    mask: Tensor | None  # [B, T]: frames that hold a real sample

    def trim(self, wav: Tensor) -> Tensor:
        """The audio `[B, C, T * hop]` with zeros behind each item's end, cut to `[B, C, num_samples]`."""
        if self.lengths is not None:
            wav = zero_after(wav, self.lengths)
        return wav[:, :, : self.num_samples]


class FramedCodec(ABC):
    """The common part of codecs. Attributes to be set: `name`, `sample_rate` in Hz, `channels`, `hop_length`
    in samples a frame.
    """

    name: str
    sample_rate: int
    channels: int
    hop_length: int

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    @abstractmethod
    def codebook_sizes(self) -> tuple[int, ...]:
        """K of each codebook."""

    @property
    @abstractmethod
    def strides(self) -> tuple[int, ...]:
        """How many frames one code of each codebook stands for."""

    @abstractmethod
    def _encode_padded(self, wav: Tensor, mask: Tensor | None, num_codebooks: int | None) -> Tensor:
        """Codes of whole frames: `[B, C, T * hop]`, mask `[B, T]` -> int64 `[B, n, T]`, 0 at padding; T may
        be 0.
        """

    @abstractmethod
    def _decode_padded(self, codes: Tensor, mask: Tensor | None) -> Tensor:
        """Whole frames of codes: int64 `[B, n, T]`, mask `[B, T]` -> float32 `[B, C, T * hop]`; T may be
        0.
        """

    @property
    def frame_rate(self) -> Fraction:
        """Frames a second, exactly."""
        return Fraction(self.sample_rate, self.hop_length)

    @property
    def num_codebooks(self) -> int:
        """N."""
        return len(self.codebook_sizes)

    @property
    def bitrate(self) -> float:
        """Nominal bits a second: frame rate times the sum of log2 K / stride."""
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
        """Codes of audio: `[B, C, S]` -> int64 `[B, n, T]`, T = ceil(S / hop).

        Audio at another `sample_rate` (Hz) is resampled. `lengths` `[B]` are the samples of each item that
        are real, of audio as given; frames beyond ceil(length / hop) are padding and 0, and change nothing at
        real ones. Computes in float32, whatever torch's global settings are. Raises ShapeError for arguments
        of another type, shape or range, NonFiniteError for NaN or infinity in the audio.
        """
        wav, mask = self._whole_frames(wav, sample_rate, lengths)
        return self._encode_padded(wav, mask, num_codebooks)

    @torch.no_grad()
    def decode(self, codes: Tensor, num_samples: int | None = None, lengths: Tensor | None = None) -> Tensor:
        """Audio of codes: integers `[B, n, T]` of any type -> float32 `[B, C, num_samples]`, by default T *
        hop samples.

        `lengths` `[B]` are the real samples of each item of a padded batch; what follows them is 0. Computes
        in float32, whatever torch's global settings are. Raises ShapeError for arguments of another type,
        shape or range.
        """
        codes = checked_codes(codes, self.num_codebooks).to(self.device)
        end = self._output_length(len(codes), codes.shape[2], num_samples, lengths)
        return end.trim(self._decode_padded(codes, end.mask))

    def frame_mask(self, lengths: Tensor | None, num_samples: int) -> Tensor | None:
        """True at frames that hold a real sample: lengths `[B]` -> `[B, T]`; None for None."""
        if lengths is None:
            return None
        frames = -(-lengths.to(self.device) // self.hop_length)
        return torch.arange(num_samples // self.hop_length, device=self.device) < frames[:, None]

    def _whole_frames(
        self, wav: Tensor, sample_rate: int | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The audio at the codec's own rate, on its device, filled up with zeros to `[B, C, T * hop]`, and
        its mask `[B, T]`; the arguments are those of `encode`.
        """
        wav, rate = checked_wav(wav, self.channels), checked_sample_rate(sample_rate, self.sample_rate)
        lengths = checked_lengths(lengths, len(wav), wav.shape[2], "the audio is no longer")
        wav, lengths = self._at_own_rate(wav, rate, lengths)
        if lengths is not None:  # what is behind an end must be silence, whatever the caller left there
            wav = zero_after(wav, lengths)
        wav = nn.functional.pad(wav, (0, -wav.shape[2] % self.hop_length))
        return wav.to(self.device), self.frame_mask(lengths, wav.shape[2])

    def _at_own_rate(
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
        """Where the audio of so many items and frames ends; the arguments are those of `decode`."""
        most = frames * self.hop_length
        num_samples = checked_num_samples(num_samples, frames, self.hop_length)
        lengths = checked_lengths(lengths, batch, most, f"{frames} frames hold no more")
        return OutputLength(num_samples, lengths, self.frame_mask(lengths, most))


def zero_after(wav: Tensor, lengths: Tensor) -> Tensor:
    """The audio `[B, C, S]` with zeros behind `lengths` `[B]`."""
    real = torch.arange(wav.shape[2], device=wav.device) < lengths.to(wav.device)[:, None, None]
    return torch.where(real, wav, 0.0)

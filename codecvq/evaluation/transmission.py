"""A common interface for comparisons: any codec as a `Transmitter`.

An `AudioCodec` has codes `[B, N, T]`, a sample rate and a depth. Other codecs have no such codes: Opus has
packets, and Codec2 has frames of bits. All of them take samples and return samples and a number of bits. That
is the interface `Transmitter`. Plugins for external codecs (`CodecSpec.external`) create transmitters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from codecvq.arguments import checked_num_codebooks
from codecvq.audio import resample
from codecvq.codec.pretrained import codec_registration, unknown_codec
from codecvq.errors import CodecError
from codecvq.evaluation.bitrate import file_bytes

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec

MAX_DEPTH_DIGITS = 10  # a number after @ has fewer digits; longer text is part of a name


@dataclass(frozen=True)
class Transmission:
    """The output of a codec for one clip."""

    samples: np.ndarray  # [S] float32, same length and sample rate as the input
    payload_bits: int  # of the coded speech, without container, headers and byte padding


class Transmitter(Protocol):
    """The interface of a codec in a comparison."""

    @property
    def name(self) -> str:
        """The name in the comparison."""

    @property
    def identity(self) -> Mapping[str, Any]:  # Any: JSON
        """Everything that can affect the results: versions and settings, or hashes of the weights."""

    def transmit(self, samples: np.ndarray, sample_rate: int) -> Transmission:
        """Encode and decode samples `[S]`; returns output of the same length, aligned, and its bits."""


@dataclass(frozen=True)
class CodecTransmitter:
    """An `AudioCodec` as a transmitter, with all codebooks or the first `num_codebooks`."""

    name: str
    codec: AudioCodec
    num_codebooks: int | None = None
    source: Path | None = None  # folder of the codec

    def __post_init__(self) -> None:
        checked_num_codebooks(self.num_codebooks, self.codec, CodecError)

    @property
    def identity(self) -> Mapping[str, Any]:
        """See `Transmitter`."""
        from codecvq.evaluation.evaluate import identity

        return {**identity(self.codec), "codebooks_used": self.num_codebooks or self.codec.num_codebooks}

    def transmit(self, samples: np.ndarray, sample_rate: int) -> Transmission:
        """See `Transmitter`. Counts the bits of the packed `.cvq` payload, and verifies that it decodes."""
        import torch

        codec = self.codec
        resampled = resample(samples, sample_rate, codec.sample_rate)  # [S']
        wav = torch.from_numpy(np.ascontiguousarray(resampled)).to(codec.device).expand(1, codec.channels, -1)
        with torch.inference_mode():
            codes = codec.encode(wav, num_codebooks=self.num_codebooks)  # [1, n, T]
            decoded = (
                codec.decode(codes, num_samples=resampled.size)[0].float().mean(dim=0).cpu().numpy()
            )  # [S']
        bits = file_bytes(codec, codes[0].cpu().numpy(), resampled.size).packed_payload_bits
        # Resampling twice can add a sample if neither rate is a multiple of the other.
        return Transmission(resample(decoded, codec.sample_rate, sample_rate)[: samples.size], bits)


def open_transmitter(name: str, device: str = "cpu") -> Transmitter:
    """Open a codec by name or folder, optionally with `@n` for its first n codebooks.

    Raises CodecError if no plugin registers the name, and MissingProgram if the program of an external codec
    is not installed.
    """
    from codecvq.codec import load

    source, depth = _split_depth(name)
    registration = codec_registration(source)
    if registration is None and not Path(source).exists():
        raise unknown_codec(source, external=True)
    if registration is not None and registration.spec.external:
        if depth is not None:
            raise CodecError(f"{name}: {source} has no codebooks. Remove @{depth}.")
        transmitter: Transmitter = registration.make()
        return transmitter
    return CodecTransmitter(name, load(source, device), depth, None if registration else Path(source))


def _split_depth(name: str) -> tuple[str, int | None]:
    """Split `"speech-16k@3"` into `("speech-16k", 3)`; the name of an existing path is not split."""
    source, _, depth = name.rpartition("@")
    if source and depth.isdecimal() and len(depth) < MAX_DEPTH_DIGITS and not Path(name).exists():
        return source, int(depth)
    return name, None

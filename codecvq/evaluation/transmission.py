"""Audio through a codec and back, whatever the codec: what a comparison sees of it.

An `AudioCodec` has codes `[B, N, T]`, a sample rate and a depth. Opus has packets, Codec2 frames of bits,
and neither of them codes. Common to all is that samples go in, samples come out, and bits went across: that
is a `Transmitter`, and it is what the plugin kind of foreign codecs makes.
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

MAX_DEPTH_DIGITS = 10  # of a number of codebooks; more are part of a name


@dataclass(frozen=True)
class Transmission:
    """One clip that went through a codec."""

    samples: np.ndarray  # [S] float32, as many and at the same rate as went in
    payload_bits: int  # of the coded speech: no container, no header, nothing that a tool pads to bytes


class Transmitter(Protocol):
    """A codec as a comparison uses it."""

    @property
    def name(self) -> str:
        """What the comparison calls it."""

    @property
    def identity(self) -> Mapping[str, Any]:  # Any: JSON
        """What can move its numbers: versions and settings, or the hashes of its weights."""

    def transmit(self, samples: np.ndarray, sample_rate: int) -> Transmission:
        """What comes out for samples `[S]`: as many, aligned with them, and the bits that they took."""


@dataclass(frozen=True)
class CodecTransmitter:
    """A codec with codes: all of its codebooks, or the first `num_codebooks` of them."""

    name: str
    codec: AudioCodec
    num_codebooks: int | None = None
    source: Path | None = None  # the folder that it was loaded from

    def __post_init__(self) -> None:
        checked_num_codebooks(self.num_codebooks, self.codec, CodecError)

    @property
    def identity(self) -> Mapping[str, Any]:
        """See `Transmitter`."""
        from codecvq.evaluation.evaluate import identity

        return {**identity(self.codec), "codebooks_used": self.num_codebooks or self.codec.num_codebooks}

    def transmit(self, samples: np.ndarray, sample_rate: int) -> Transmission:
        """See `Transmitter`. The bits are those of the packed `.cvq` payload, read back and found equal."""
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
        # there and back again is a sample more where neither rate is a multiple of the other
        return Transmission(resample(decoded, codec.sample_rate, sample_rate)[: samples.size], bits)


def open_transmitter(name: str, device: str = "cpu") -> Transmitter:
    """The codec that a name, a folder, or either with `@n` for its first n codebooks, means.

    Raises CodecError for a name that is nobody's, MissingProgram for a codec of others that is not installed.
    """
    from codecvq.codec import load

    source, depth = _split_depth(name)
    registration = codec_registration(source)
    if registration is None and not Path(source).exists():
        raise unknown_codec(source, foreign=True)
    if registration is not None and registration.spec.foreign:
        if depth is not None:
            raise CodecError(f"{name}: {source} has no codebooks to count. Leave out @{depth}.")
        transmitter: Transmitter = registration.make()
        return transmitter
    return CodecTransmitter(name, load(source, device), depth, None if registration else Path(source))


def _split_depth(name: str) -> tuple[str, int | None]:
    """`"speech-16k@3"` as `("speech-16k", 3)`; a path that is there is taken as it is."""
    source, _, depth = name.rpartition("@")
    if source and depth.isdecimal() and len(depth) < MAX_DEPTH_DIGITS and not Path(name).exists():
        return source, int(depth)
    return name, None

"""A common interface for comparisons: any codec as a `Transmitter`.

An `AudioCodec` has codes `[B, N, T]`, a sample rate and a depth. Other codecs have no such codes: Opus has
packets, and Codec2 has frames of bits. All of them take samples and return samples and a number of bits. That
is the interface `Transmitter`. Plugins for external codecs (`CodecSpec.external`) create transmitters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from codecvq.arguments import checked_num_codebooks
from codecvq.audio import resample
from codecvq.codec.pretrained import codec_registration, unknown_codec
from codecvq.errors import CodecError, CodecvqError
from codecvq.evaluation.bitrate import file_bytes
from codecvq.evaluation.packet_loss import PacketLoss
from codecvq.evaluation.transcoding import Reader, Samples, Transcoding

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

    def transmit(self, samples: np.ndarray, sample_rate: int, loss: PacketLoss | None = None) -> Transmission:
        """See `Transmitter`. Counts the bits of the packed `.cvq` payload, and verifies that it decodes.

        With `loss`, frames of lost packets are concealed; their bits count.
        """
        import torch

        from codecvq.codec.lossy import decode_with_loss

        codec = self.codec
        resampled = resample(samples, sample_rate, codec.sample_rate)  # [S']
        wav = torch.from_numpy(np.ascontiguousarray(resampled)).to(codec.device).expand(1, codec.channels, -1)
        with torch.inference_mode():
            codes = codec.encode(wav, num_codebooks=self.num_codebooks)  # [1, n, T]
            if loss is None:
                wav = codec.decode(codes, num_samples=resampled.size)
            else:
                lost = loss.lost_frames(samples, codes.shape[2], 1 / codec.frame_rate)
                wav = decode_with_loss(codec, codes, torch.from_numpy(lost))[:, :, : resampled.size]
            decoded = wav[0].float().mean(dim=0).cpu().numpy()  # [S']
        bits = file_bytes(codec, codes[0].cpu().numpy(), resampled.size).packed_payload_bits
        # Resampling twice can add a sample if neither rate is a multiple of the other.
        return Transmission(resample(decoded, codec.sample_rate, sample_rate)[: samples.size], bits)

    def transmit_long(self, recording: Callable[[], Iterable[Samples]], sample_rate: int) -> LongTransmission:
        """Return the transmission of a recording of any length, with the codes of the whole."""
        return _StreamTransmission(self.codec, recording, self.num_codebooks, sample_rate)


@dataclass(frozen=True)
class LossyTransmitter:
    """A codec whose packets are lost in part. Clips of any length are transmitted in pieces."""

    transmitter: CodecTransmitter
    loss: PacketLoss

    @property
    def name(self) -> str:
        """See `Transmitter`."""
        return f"{self.transmitter.name}, {self.loss.percent:g} % lost"

    @property
    def source(self) -> Path | None:
        """Folder of the codec; None without one."""
        return self.transmitter.source

    @property
    def identity(self) -> Mapping[str, Any]:
        """See `Transmitter`."""
        return {**self.transmitter.identity, "packet_loss": asdict(self.loss)}

    def transmit(self, samples: np.ndarray, sample_rate: int) -> Transmission:
        """See `Transmitter`. Lost frames are concealed; their bits count."""
        return self.transmitter.transmit(samples, sample_rate, self.loss)


def with_losses(
    transmitters: Iterable[Transmitter], losses: Sequence[PacketLoss]
) -> tuple[list[Transmitter], dict[str, str]]:
    """Return each transmitter at each loss, and the reason for each one that cannot lose packets.

    At a loss of 0, it is the transmitter itself.
    """
    lossy: list[Transmitter] = []
    absent: dict[str, str] = {}
    for transmitter in transmitters:
        for loss in losses:
            if not loss.percent:
                lossy.append(transmitter)
            elif isinstance(transmitter, CodecTransmitter):
                lossy.append(LossyTransmitter(transmitter, loss))
            else:
                absent[f"{transmitter.name} with loss"] = (
                    "its packets are inside its program. Compare codecs with codes."
                )
    return lossy, absent


class LongTransmission(Protocol):
    """The transmission of a recording of any length."""

    def blocks(self) -> Iterator[tuple[Samples, Samples]]:
        """Yield new samples `[n]` of the recording and the decoded ones at their place."""

    @property
    def payload_bits(self) -> int:
        """Bits of the coded speech, after `blocks` has ended."""


def long_transmission(
    transmitter: Transmitter, recording: Callable[[], Iterable[Samples]], sample_rate: int, piece_s: float
) -> LongTransmission:
    """Return the transmission of a recording, blocks `[n]` that `recording` returns each time.

    A transmitter with a method `transmit_long`, such as `CodecTransmitter`, transmits it as a stream. Others
    transmit pieces of `piece_s` seconds, each by itself.
    """
    transmit_long = getattr(
        transmitter, "transmit_long", None
    )  # an optional method of third-party transmitters
    if transmit_long is not None:
        found: LongTransmission = transmit_long(recording, sample_rate)
        return found
    return _PieceTransmission(transmitter, recording, sample_rate, round(piece_s * sample_rate))


class _StreamTransmission(Transcoding):
    """A `LongTransmission` by a codec as a stream."""

    @property
    def payload_bits(self) -> int:
        return file_bytes(self._codec, self.codes(), self.num_samples).packed_payload_bits


class _PieceTransmission:
    """A `LongTransmission` in pieces."""

    def __init__(
        self,
        transmitter: Transmitter,
        recording: Callable[[], Iterable[Samples]],
        sample_rate: int,
        piece: int,
    ) -> None:
        self._transmitter, self._recording, self._rate, self._piece = (
            transmitter,
            recording,
            sample_rate,
            piece,
        )
        self.payload_bits = 0

    def blocks(self) -> Iterator[tuple[Samples, Samples]]:
        reader = Reader(self._recording())
        while (piece := reader.take(self._piece)).size:
            transmission = self._transmitter.transmit(piece, self._rate)
            check_transmission(transmission.samples, piece)
            self.payload_bits += transmission.payload_bits
            yield piece, transmission.samples


def check_transmission(decoded: np.ndarray, samples: np.ndarray) -> None:
    """Raise CodecvqError if decoded samples have another length, NaN or infinity."""
    if decoded.size != samples.size:
        raise CodecvqError(f"decoded to {decoded.size} samples, the original has {samples.size}")
    if not np.isfinite(decoded).all():
        raise CodecvqError("decoded to NaN or infinity")


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

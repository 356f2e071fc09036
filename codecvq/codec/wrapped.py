"""`WrappedCodec`: base class that adapts an existing codec to `AudioCodec`."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from codecvq.api.hookspecs import API_VERSION
from codecvq.api.reach import Reach
from codecvq.arguments import INTEGERS, as_integer, check_finite, checked_num_codebooks
from codecvq.codec.framed import FramedCodec
from codecvq.codec.identity import HashCache, wrapped_hash
from codecvq.errors import CodecError, OptionError, ShapeError, StreamingError
from codecvq.limits import MAX_CODEBOOK_SIZE, MAX_CODEBOOKS, SAMPLE_RATES
from codecvq.numerics import plain_float32
from codecvq.quantizer.checks import check_in_range
from codecvq.quantizer.strides import check_blocks
from codecvq.streaming import StreamingModule, Windows

if TYPE_CHECKING:
    from codecvq.api.code_tables import CodeTables
    from codecvq.api.codec import AudioCodec

MAX_HOP = 2**31 - 1


class WrappedCodec(FramedCodec):
    """Adapts an existing model to `AudioCodec`. Subclasses define `encode_frames` and `decode_frames`.

    Args:
        name: Name in reports and datasets.
        sample_rate: Sample rate in Hz.
        hop_length: Samples per frame.
        codebook_sizes: Size K of each codebook.
        weights: Identity of the codec: the state dict of the model, or a text that names its version.
        codebooks: Identity of the codes, by default `weights`. Pass the identity of another codec if
            each codec can decode the codes of the other.
        channels: Number of audio channels C.
        strides: Frames per code of each codebook, by default 1.
        prefix_decodable: Whether the first n codebooks decode without the others.
        device: Device of the computation.

    Raises OptionError for invalid values.

    A subclass whose model has a finite receptive field can declare it in `encoder_reach` and
    `decoder_reach`. Then `stream_encoder` and `stream_decoder` process streams by overlapping windows.
    """

    variable_depth = False
    #: Samples before and after a frame on which its codes depend; None: unknown, so it cannot encode streams.
    encoder_reach: Reach | None = None
    #: Frames before and after a frame on which its audio depends; None: unknown, so it cannot decode streams.
    decoder_reach: Reach | None = None

    def __init__(
        self,
        *,
        name: str,
        sample_rate: int,
        hop_length: int,
        codebook_sizes: Sequence[int],
        weights: Mapping[str, Tensor] | str,
        codebooks: Mapping[str, Tensor] | str | None = None,
        channels: int = 1,
        strides: Sequence[int] | None = None,
        prefix_decodable: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:
        self.name, self.prefix_decodable = name, prefix_decodable
        self.sample_rate = _checked_integer("sample_rate", sample_rate, *SAMPLE_RATES)
        self.hop_length = _checked_integer("hop_length", hop_length, 1, MAX_HOP)
        self.channels = _checked_integer("channels", channels, 1, 64)
        self._sizes = _checked_integers("codebook_sizes", codebook_sizes, MAX_CODEBOOK_SIZE)
        self._strides = _checked_integers(
            "strides", (1,) * len(self._sizes) if strides is None else strides, MAX_HOP
        )
        if len(self._strides) != len(self._sizes):
            raise OptionError(f"strides are {self._strides}, but there are {len(self._sizes)} codebooks.")
        self._weights, self._codebooks = weights, weights if codebooks is None else codebooks
        for source in (self._weights, self._codebooks):
            _check_source(name, source)
        self._device = torch.device(device)
        self._hashes = HashCache()

    @abstractmethod
    def encode_frames(self, wav: Tensor) -> Tensor:
        """Encode audio, float32 `[B, C, T * hop]` on `device` with T >= 1, to codes, integers `[B, N, T]`.

        All items have the same length and no padding. Items of other lengths are passed in other calls.
        """

    @abstractmethod
    def decode_frames(self, codes: Tensor) -> Tensor:
        """Decode codes, int64 `[B, n, T]` on `device` with T >= 1, to audio, floats `[B, C, T * hop]`.

        All codes are in range. n is N, or any number from 1 to N if the codec is `prefix_decodable`.
        """

    # properties

    @property
    def device(self) -> torch.device:
        """Device of the computation."""
        return self._device

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Size K of each codebook."""
        return self._sizes

    @property
    def strides(self) -> tuple[int, ...]:
        """Frames per code of each codebook."""
        return self._strides

    def code_tables(self) -> CodeTables | None:
        """Return the learned code frequencies for the entropy coder of `.cvq` files, or None.

        If you override it, `codebooks` must also identify the tables.
        """
        return None

    @property
    def weights_sha256(self) -> str:
        """Hash of `weights`, sample rate, channels, hop length, codebook sizes and strides."""
        return self._hash("weights", self._weights)

    @property
    def codebooks_sha256(self) -> str:
        """Hash of `codebooks`, sample rate, channels, hop length, codebook sizes and strides."""
        return self._hash("codebooks", self._codebooks)

    def matches_codebooks(self, digest: str) -> bool:
        """Whether `codebooks_sha256` equals or starts with `digest`."""
        return self.codebooks_sha256.startswith(digest)

    def matches_weights(self, digest: str) -> bool:
        """Whether `weights_sha256` equals or starts with `digest`."""
        return self.weights_sha256.startswith(digest)

    @property
    def quantizer_info(self) -> dict[str, Any]:  # Any: JSON
        """Metadata that datasets record: the codec's name and the module of its class."""
        return {"name": self.name, "plugin": type(self).__module__, "version": "", "api": API_VERSION}

    def _hash(self, what: str, source: Mapping[str, Tensor] | str) -> str:
        facts = {
            "sample_rate": self.sample_rate,
            "channels": self.channels,
            "hop_length": self.hop_length,
            "codebook_sizes": self.codebook_sizes,
            "strides": self.strides,
        }
        tensors = {} if isinstance(source, str) else source
        return self._hashes.get(what, tensors, lambda: wrapped_hash(source, {"of": what, **facts}))

    # encoding and decoding

    def _encode_padded(self, wav: Tensor, mask: Tensor | None, num_codebooks: int | None) -> Tensor:
        depth = checked_num_codebooks(num_codebooks, self)
        check_finite("samples", wav)
        frames = wav.shape[2] // self.hop_length
        codes = torch.zeros(len(wav), self.num_codebooks, frames, dtype=torch.int64, device=self.device)
        for items, count in _group_by_length(mask, len(wav), frames):
            with plain_float32(self.device):
                encoded = self.encode_frames(wav[items, :, : count * self.hop_length])
            codes[items, :, :count] = self._validated_codes(encoded, len(items), count)
        return codes[:, :depth]

    def _decode_padded(self, codes: Tensor, mask: Tensor | None) -> Tensor:
        checked_num_codebooks(codes.shape[1], self)
        check_in_range(codes, self.codebook_sizes)
        frames = codes.shape[2]
        wav = torch.zeros(len(codes), self.channels, frames * self.hop_length, device=self.device)
        for items, count in _group_by_length(mask, len(codes), frames):
            group = codes[items, :, :count]
            check_blocks(group, self.strides)
            with plain_float32(self.device):
                decoded = self.decode_frames(group)
            wav[items, :, : count * self.hop_length] = self._validated_wav(decoded, len(items), count)
        return wav

    def _survey(self, recording: Callable[[], Iterable[Tensor]]) -> None:
        del recording  # streams need no more than the context that `encoder_reach` declares

    def _encoder_stream(self, num_codebooks: int, survey: Tensor | None) -> StreamingModule:
        del survey
        return Windows(
            lambda wav: self._encode_padded(wav, None, num_codebooks),
            self._declared("encoder_reach", self.encoder_reach),
            samples_in=self.hop_length,
            block=math.lcm(*self.strides),
        )

    def _decoder_stream(self) -> StreamingModule:
        return Windows(
            lambda codes: self._decode_padded(codes, None),
            self._declared("decoder_reach", self.decoder_reach),
            samples_out=self.hop_length,
            block=math.lcm(*self.strides),
        )

    def _declared(self, name: str, reach: Reach | None) -> Reach:
        if reach is None:
            raise StreamingError(
                f"codec {self.name!r} declares no {name}, so the context of a frame is unknown. Process "
                f"whole recordings, or set {name} in class {type(self).__name__}."
            )
        return reach

    @property
    def latency_samples(self) -> int | None:
        """Algorithmic latency in samples; None without `encoder_reach` and `decoder_reach`."""
        if self.encoder_reach is None or self.decoder_reach is None:
            return None
        block = math.lcm(*self.strides)
        frames = -(-(block + self.decoder_reach.future) // block) * block
        return self.encoder_reach.future + frames * self.hop_length

    def _validated_codes(self, codes: Any, batch: int, frames: int) -> Tensor:  # Any: third-party result
        shape = [batch, self.num_codebooks, frames]
        if not isinstance(codes, Tensor) or codes.dtype not in INTEGERS or list(codes.shape) != shape:
            raise CodecError(
                f"codec {self.name!r}: encode_frames of {frames * self.hop_length} samples returned "
                f"{_describe(codes)}; needed are integers [B, N, T] = {shape}."
            )
        try:
            check_in_range(codes.long(), self.codebook_sizes)
            check_blocks(codes, self.strides)
        except ShapeError as error:
            raise CodecError(
                f"codec {self.name!r}: encode_frames returned codes that do not match its codebook_sizes "
                f"{self.codebook_sizes} and strides {self.strides} ({error})."
            ) from error
        return codes.to(self.device, torch.int64)

    def _validated_wav(self, wav: Any, batch: int, frames: int) -> Tensor:  # Any: third-party result
        shape = [batch, self.channels, frames * self.hop_length]
        if not isinstance(wav, Tensor) or not wav.is_floating_point() or list(wav.shape) != shape:
            raise CodecError(
                f"codec {self.name!r}: decode_frames of {frames} frames returned {_describe(wav)}; needed "
                f"are floats [B, C, T * hop] = {shape}."
            )
        return wav.to(self.device, torch.float32)


def _group_by_length(mask: Tensor | None, batch: int, frames: int) -> Iterator[tuple[list[int], int]]:
    """Yield the indices of the batch items that have equally many valid frames, and this number.

    Skips empty items.
    """
    counts = [frames] * batch if mask is None else mask.sum(dim=1).tolist()
    for count in sorted(set(counts) - {0}, reverse=True):
        yield [item for item, valid in enumerate(counts) if valid == count], count


def _checked_integer(what: str, value: Any, minimum: int, maximum: int) -> int:  # Any: an unchecked argument
    number = as_integer(value)
    if number is None or not minimum <= number <= maximum:
        raise OptionError(
            f"{what} is {value!r:.40}, but a whole number from {minimum} to {maximum} is needed."
        )
    return number


def _checked_integers(what: str, values: Sequence[int], maximum: int) -> tuple[int, ...]:
    if not 1 <= len(values) <= MAX_CODEBOOKS:
        raise OptionError(f"{what} has {len(values)} numbers, but 1 to {MAX_CODEBOOKS} are needed.")
    return tuple(_checked_integer(f"{what}[{n}]", value, 1, maximum) for n, value in enumerate(values))


def _check_source(name: str, source: Any) -> None:  # Any: an unchecked argument
    tensors = isinstance(source, Mapping) and all(isinstance(tensor, Tensor) for tensor in source.values())
    if not source or not (tensors or isinstance(source, str)):
        raise OptionError(
            f"weights or codebooks of codec {name!r} are {_describe_source(source)}, but a state dict or a "
            "text that names their version is needed. Files record a hash of it, and decoding requires "
            "an equal hash."
        )


def _describe_source(source: object) -> str:
    return f"a {type(source).__name__}" if source else f"an empty {type(source).__name__}"


def _describe(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


if TYPE_CHECKING:  # static check: `WrappedCodec` implements the protocol
    _codec: type[AudioCodec] = WrappedCodec  # type: ignore[type-abstract]

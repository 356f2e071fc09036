"""`WrappedCodec`: a codec that exists, as an `AudioCodec`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from codecvq.api.hookspecs import API_VERSION
from codecvq.arguments import INTEGERS, as_integer, check_finite, checked_num_codebooks
from codecvq.codec.framed import FramedCodec
from codecvq.codec.identity import HashCache, wrapped_hash
from codecvq.errors import CodecError, OptionError, ShapeError
from codecvq.limits import MAX_CODEBOOK_SIZE, MAX_CODEBOOKS, SAMPLE_RATES
from codecvq.numerics import plain_float32
from codecvq.quantizer.checks import check_in_range
from codecvq.quantizer.strides import check_blocks

if TYPE_CHECKING:
    from codecvq.api.code_tables import CodeTables
    from codecvq.api.codec import AudioCodec

MAX_HOP = 2**31 - 1


class WrappedCodec(FramedCodec):
    """Base class that makes an `AudioCodec` of a model that exists: define `encode_frames` and
    `decode_frames`.

    Args: `name` what reports and datasets call it; `sample_rate` in Hz; `hop_length` in samples a frame;
    `codebook_sizes` one K for each codebook; `weights` what identifies the codec: the model's state dict, or
    a text that names its version; `codebooks` the same for what gives codes their meaning, by default
    `weights` (give that of another codec whose codes this one decodes too); `channels` C; `strides` the
    frames that one code of each codebook stands for, by default 1; `prefix_decodable` whether the first n
    codebooks decode without the others; `device` where the model computes.

    Raises OptionError for values that cannot be.
    """

    variable_depth = False

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
        self.sample_rate = _whole("sample_rate", sample_rate, *SAMPLE_RATES)
        self.hop_length = _whole("hop_length", hop_length, 1, MAX_HOP)
        self.channels = _whole("channels", channels, 1, 64)
        self._sizes = _wholes("codebook_sizes", codebook_sizes, MAX_CODEBOOK_SIZE)
        self._strides = _wholes("strides", (1,) * len(self._sizes) if strides is None else strides, MAX_HOP)
        if len(self._strides) != len(self._sizes):
            raise OptionError(f"strides are {self._strides}, but there are {len(self._sizes)} codebooks.")
        self._weights, self._codebooks = weights, weights if codebooks is None else codebooks
        for source in (self._weights, self._codebooks):
            _check_source(name, source)
        self._device = torch.device(device)
        self._hashes = HashCache()

    @abstractmethod
    def encode_frames(self, wav: Tensor) -> Tensor:
        """Codes of audio: float32 `[B, C, T * hop]` on `device`, T at least 1 -> integers `[B, N, T]`.

        All items are of the same length, without padding; items of other lengths come in another call.
        """

    @abstractmethod
    def decode_frames(self, codes: Tensor) -> Tensor:
        """Audio of codes: int64 `[B, n, T]` on `device`, T at least 1, each in its range -> floats `[B, C, T
        * hop]`. n is N, or any number from 1 to N where the codec is `prefix_decodable`.
        """

    # what it is

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """K of each codebook."""
        return self._sizes

    @property
    def strides(self) -> tuple[int, ...]:
        """How many frames one code of each codebook stands for."""
        return self._strides

    def code_tables(self) -> CodeTables | None:
        """The learned frequencies of its codes, for the entropy coder of `.cvq` files; None: it has none.
        Where you define it, `codebooks` must identify the tables too.
        """
        return None

    @property
    def weights_sha256(self) -> str:
        """Of the weights, and of what the codec says of itself."""
        return self._hash("weights", self._weights)

    @property
    def codebooks_sha256(self) -> str:
        """Of the codebooks, and of what the codec says of itself."""
        return self._hash("codebooks", self._codebooks)

    def matches_codebooks(self, digest: str) -> bool:
        """Whether `codebooks_sha256` is `digest` or begins with it."""
        return self.codebooks_sha256.startswith(digest)

    def matches_weights(self, digest: str) -> bool:
        """Whether `weights_sha256` is `digest` or begins with it."""
        return self.weights_sha256.startswith(digest)

    @property
    def quantizer_info(self) -> dict[str, Any]:  # Any: JSON
        """The codec's name and the module that wraps it, for datasets."""
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

    # what it does

    def _encode_padded(self, wav: Tensor, mask: Tensor | None, num_codebooks: int | None) -> Tensor:
        depth = checked_num_codebooks(num_codebooks, self)
        check_finite("samples", wav)
        frames = wav.shape[2] // self.hop_length
        codes = torch.zeros(len(wav), self.num_codebooks, frames, dtype=torch.int64, device=self.device)
        for items, count in _group_by_length(mask, len(wav), frames):
            with plain_float32(self.device):
                made = self.encode_frames(wav[items, :, : count * self.hop_length])
            codes[items, :, :count] = self._checked_codes(made, len(items), count)
        return codes[:, :depth]

    def _decode_padded(self, codes: Tensor, mask: Tensor | None) -> Tensor:
        checked_num_codebooks(codes.shape[1], self)
        check_in_range(codes, self.codebook_sizes)
        frames = codes.shape[2]
        wav = torch.zeros(len(codes), self.channels, frames * self.hop_length, device=self.device)
        for items, count in _group_by_length(mask, len(codes), frames):
            own = codes[items, :, :count]
            check_blocks(own, self.strides)
            with plain_float32(self.device):
                made = self.decode_frames(own)
            wav[items, :, : count * self.hop_length] = self._checked_wav(made, len(items), count)
        return wav

    def _checked_codes(self, codes: Any, batch: int, frames: int) -> Tensor:  # Any: a stranger's model
        shape = [batch, self.num_codebooks, frames]
        if not isinstance(codes, Tensor) or codes.dtype not in INTEGERS or list(codes.shape) != shape:
            raise CodecError(
                f"codec {self.name!r}: encode_frames of {frames * self.hop_length} samples gave "
                f"{_shown(codes)}; needed are integers [B, N, T] = {shape}."
            )
        try:
            check_in_range(codes.long(), self.codebook_sizes)
            check_blocks(codes, self.strides)
        except ShapeError as error:
            raise CodecError(
                f"codec {self.name!r}: encode_frames gave codes that its codebook_sizes "
                f"{self.codebook_sizes} and strides {self.strides} do not have ({error})."
            ) from error
        return codes.to(self.device, torch.int64)

    def _checked_wav(self, wav: Any, batch: int, frames: int) -> Tensor:  # Any: a stranger's model
        shape = [batch, self.channels, frames * self.hop_length]
        if not isinstance(wav, Tensor) or not wav.is_floating_point() or list(wav.shape) != shape:
            raise CodecError(
                f"codec {self.name!r}: decode_frames of {frames} frames gave {_shown(wav)}; needed are "
                f"floats [B, C, T * hop] = {shape}."
            )
        return wav.to(self.device, torch.float32)


def _group_by_length(mask: Tensor | None, batch: int, frames: int) -> Iterator[tuple[list[int], int]]:
    """The items of a batch with as many real frames each, and how many these are; none without frames."""
    counts = [frames] * batch if mask is None else mask.sum(dim=1).tolist()
    for count in sorted(set(counts) - {0}, reverse=True):
        yield [item for item, own in enumerate(counts) if own == count], count


def _whole(what: str, value: Any, least: int, most: int) -> int:  # Any: whatever the author gives
    number = as_integer(value)
    if number is None or not least <= number <= most:
        raise OptionError(f"{what} is {value!r:.40}, but a whole number from {least} to {most} is needed.")
    return number


def _wholes(what: str, values: Sequence[int], most: int) -> tuple[int, ...]:
    if not 1 <= len(values) <= MAX_CODEBOOKS:
        raise OptionError(f"{what} has {len(values)} numbers, but 1 to {MAX_CODEBOOKS} are needed.")
    return tuple(_whole(f"{what}[{n}]", value, 1, most) for n, value in enumerate(values))


def _check_source(name: str, source: Any) -> None:  # Any: whatever the author gives
    tensors = isinstance(source, Mapping) and all(isinstance(tensor, Tensor) for tensor in source.values())
    if not source or not (tensors or isinstance(source, str)):
        raise OptionError(
            f"weights of codec {name!r} are {_brief(source)}, but a state dict or a text that names their "
            "version is needed: files record a hash of it, and the codec with the same one decodes them."
        )


def _brief(source: object) -> str:
    return f"a {type(source).__name__}" if source else f"an empty {type(source).__name__}"


def _shown(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


if TYPE_CHECKING:  # `WrappedCodec` has all that the protocol asks for
    _codec: type[AudioCodec] = WrappedCodec  # type: ignore[type-abstract]

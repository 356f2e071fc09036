"""Checks of what callers give to `encode` and `decode`: type, shape and range, once, at the boundary."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from codecvq.errors import CodecvqError, NonFiniteError, ShapeError
from codecvq.limits import SAMPLE_RATES

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec

INTEGERS = tuple(
    getattr(torch, name)
    for name in ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64")
)


def checked_wav(wav: Any, channels: int) -> Tensor:  # Any: whatever the caller gives
    """The audio `[B, C, S]` as float32."""
    if (
        not isinstance(wav, Tensor)
        or wav.ndim != 3
        or wav.shape[1] != channels
        or not wav.is_floating_point()
    ):
        raise ShapeError(
            f"wav is {_shown(wav)}; needed is a tensor of floats [B, C, S] with C={channels}. "
            "A mono signal [S] is wav[None, None]; average channels first where there are more."
        )
    return wav.float()


def checked_codes(codes: Any, num_codebooks: int) -> Tensor:  # Any: whatever the caller gives
    """The codes `[B, N, T]` of any integer type as int64; their range is checked by the quantizer."""
    if not isinstance(codes, Tensor) or codes.ndim != 3 or codes.dtype not in INTEGERS:
        raise ShapeError(
            f"codes are {_shown(codes)}; needed is a tensor of integers [B, N, T] with N={num_codebooks}. "
            "The codes [N, T] of one clip are codes[None]; torch.from_numpy makes a tensor of an array."
        )
    return codes.long()


def checked_latents(latents: Any, dim: int) -> Tensor:  # Any: whatever the caller gives
    """The latents `[B, D, T]` as float32, all of them finite."""
    if (
        not isinstance(latents, Tensor)
        or latents.ndim != 3
        or latents.shape[1] != dim
        or not latents.is_floating_point()
    ):
        raise ShapeError(
            f"latents are {_shown(latents)}; needed is a tensor of floats [B, D, T] with D={dim}, as "
            "encode_latents gives them."
        )
    check_finite("latents", latents)
    return latents.float()


def check_finite(what: str, values: Tensor) -> None:
    """Raise NonFiniteError where `values` `[B, X, Y]`, called `what`, have NaN or infinity."""
    wrong = (~values.isfinite()).nonzero()
    if len(wrong):
        item, _, place = wrong[0].tolist()
        raise NonFiniteError(f"{what} of item {item} are NaN or infinite at index {place}.")


def checked_num_codebooks(
    num_codebooks: Any,  # Any: as above
    codec: AudioCodec,
    error: type[CodecvqError] = ShapeError,
    what: str = "num_codebooks",
) -> int:
    """The number of codebooks of `codec` to use; None stands for all. Raises `error`, which calls the number
    `what`, where the codec has fewer, or where fewer than all do not decode.
    """
    most = codec.num_codebooks
    if num_codebooks is None:
        return most
    number = as_integer(num_codebooks)
    if number is None or not 1 <= number <= most:
        raise error(
            f"{what} is {num_codebooks!r:.40}, but codec {codec.name!r} has {most}. Give 1 to {most}."
        )
    if number < most and not codec.prefix_decodable:
        raise error(
            f"{what} is {number}, but the {most} codebooks of codec {codec.name!r} only decode together. "
            f"Leave {what} out."
        )
    return number


def checked_sample_rate(sample_rate: Any, own: int) -> int:  # Any: as above
    """The sample rate in Hz, within `SAMPLE_RATES`; None stands for the codec's `own`."""
    if sample_rate is None:
        return own
    rate = as_integer(sample_rate)
    if rate is None or not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
        raise ShapeError(
            f"sample_rate is {sample_rate!r}; needed is a whole number of Hz from {SAMPLE_RATES[0]} to "
            f"{SAMPLE_RATES[1]}."
        )
    return rate


def checked_lengths(lengths: Any, batch: int, most: int, what: str) -> Tensor | None:  # Any: as above
    """The lengths `[B]` as int64; None for None. `most` is the largest that can be, `what` says of what."""
    if lengths is None:
        return None
    if not isinstance(lengths, Tensor) or lengths.dtype not in INTEGERS or lengths.shape != (batch,):
        raise ShapeError(
            f"lengths are {_shown(lengths)}; needed is a tensor of integers [B] with B={batch}, the real "
            "samples of each item."
        )
    lengths = lengths.long()
    wrong = ((lengths < 0) | (lengths > most)).nonzero()
    if len(wrong):
        item = int(wrong[0])
        raise ShapeError(
            f"lengths[{item}] is {int(lengths[item])}, but item {item} has 0 to {most} samples: {what}."
        )
    return lengths


def checked_num_samples(num_samples: Any, frames: int, hop_length: int) -> int:  # Any: as above
    """How many samples to decode; None stands for all that `frames` frames hold."""
    most = frames * hop_length
    if num_samples is None:
        return most
    number = as_integer(num_samples)
    if number is None or not 0 <= number <= most:
        raise ShapeError(
            f"num_samples is {num_samples!r}; {frames} frames of {hop_length} samples hold 0 to {most}. "
            "Codes are missing, or they were made with another hop."
        )
    return number


def as_integer(value: Any) -> int | None:  # Any: whatever the caller gives
    """The value as an int where it is an integer (Python's, numpy's, or a tensor of one); else None."""
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 and value.dtype in INTEGERS else None
    if isinstance(value, bool) or not isinstance(value, (int, numbers.Integral, torch.SymInt)):
        return None
    return value if isinstance(value, (int, torch.SymInt)) else int(value)  # type: ignore[return-value]


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__

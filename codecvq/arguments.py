"""Checks of the arguments of `encode` and `decode`: type, shape and range."""

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


def checked_wav(wav: Any, channels: int) -> Tensor:  # Any: a caller's argument
    """Return the audio `[B, C, S]` as float32. Raises ShapeError for another type or shape."""
    if (
        not isinstance(wav, Tensor)
        or wav.ndim != 3
        or wav.shape[1] != channels
        or not wav.is_floating_point()
    ):
        raise ShapeError(
            f"wav is {_describe(wav)}; needed is a tensor of floats [B, C, S] with C={channels}. "
            "For a mono signal [S] pass wav[None, None]; average the channels of a signal that has more."
        )
    return wav.float()


def checked_codes(codes: Any, num_codebooks: int) -> Tensor:  # Any: a caller's argument
    """Return the codes `[B, N, T]`, of any integer type, as int64. The quantizer checks their range.

    Raises ShapeError for another type or shape.
    """
    if not isinstance(codes, Tensor) or codes.ndim != 3 or codes.dtype not in INTEGERS:
        raise ShapeError(
            f"codes are {_describe(codes)}; needed is a tensor of integers [B, N, T] with N={num_codebooks}. "
            "For one clip [N, T] pass codes[None]; convert an array with torch.from_numpy."
        )
    return codes.long()


def checked_latents(latents: Any, dim: int) -> Tensor:  # Any: a caller's argument
    """Return the latents `[B, D, T]` as float32.

    Raises ShapeError for another type or shape, NonFiniteError for NaN or infinity.
    """
    if (
        not isinstance(latents, Tensor)
        or latents.ndim != 3
        or latents.shape[1] != dim
        or not latents.is_floating_point()
    ):
        raise ShapeError(
            f"latents are {_describe(latents)}; needed is a tensor of floats [B, D, T] with D={dim}, as "
            "encode_latents returns them."
        )
    check_finite("latents", latents)
    return latents.float()


def check_finite(what: str, values: Tensor) -> None:
    """Raise NonFiniteError if `values` `[B, X, Y]` contain NaN or infinity.

    `what` names them in the error.
    """
    nonfinite = (~values.isfinite()).nonzero()
    if len(nonfinite):
        item, _, index = nonfinite[0].tolist()
        raise NonFiniteError(f"{what} of item {item} are NaN or infinite at index {index}.")


def checked_num_codebooks(
    num_codebooks: Any,  # Any: a caller's argument
    codec: AudioCodec,
    error: type[CodecvqError] = ShapeError,
    what: str = "num_codebooks",
) -> int:
    """Return the number of codebooks of `codec` to use; None means all.

    Raises `error`, which calls the number `what`, if the codec has fewer codebooks or if it cannot decode a
    prefix of them.
    """
    maximum = codec.num_codebooks
    if num_codebooks is None:
        return maximum
    number = as_integer(num_codebooks)
    if number is None or not 1 <= number <= maximum:
        raise error(
            f"{what} is {num_codebooks!r:.40}, but codec {codec.name!r} has {maximum}. Give 1 to {maximum}."
        )
    if number < maximum and not codec.prefix_decodable:
        raise error(
            f"{what} is {number}, but codec {codec.name!r} needs all {maximum} codebooks to "
            f"decode. Omit {what}."
        )
    return number


def checked_sample_rate(sample_rate: Any, default: int) -> int:  # Any: a caller's argument
    """Return the sample rate in Hz, within `SAMPLE_RATES`; None means `default`, the codec's rate."""
    if sample_rate is None:
        return default
    rate = as_integer(sample_rate)
    if rate is None or not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
        raise ShapeError(
            f"sample_rate is {sample_rate!r}; needed is a whole number of Hz from {SAMPLE_RATES[0]} to "
            f"{SAMPLE_RATES[1]}."
        )
    return rate


def checked_lengths(lengths: Any, batch: int, maximum: int, what: str) -> Tensor | None:
    """Return the lengths `[B]` as int64; None for None.

    `maximum` is the largest valid length, and `what` explains that limit in the error.
    """
    if lengths is None:
        return None
    if not isinstance(lengths, Tensor) or lengths.dtype not in INTEGERS or lengths.shape != (batch,):
        raise ShapeError(
            f"lengths are {_describe(lengths)}; needed is a tensor of integers [B] with B={batch}, the "
            "numbers of valid samples of the items."
        )
    lengths = lengths.long()
    invalid = ((lengths < 0) | (lengths > maximum)).nonzero()
    if len(invalid):
        item = int(invalid[0])
        raise ShapeError(f"lengths[{item}] is {int(lengths[item])}, but it must be 0 to {maximum}: {what}.")
    return lengths


def checked_num_samples(num_samples: Any, frames: int, hop_length: int) -> int:
    """Return the number of samples to decode; None means all samples of `frames` frames."""
    maximum = frames * hop_length
    if num_samples is None:
        return maximum
    number = as_integer(num_samples)
    if number is None or not 0 <= number <= maximum:
        raise ShapeError(
            f"num_samples is {num_samples!r}; {frames} frames of {hop_length} samples hold 0 to {maximum}. "
            "Codes are missing, or they were encoded with another hop."
        )
    return number


def as_integer(value: Any) -> int | None:  # Any: a caller's argument
    """Return a Python, numpy or one-element tensor integer as an int; None for anything else."""
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 and value.dtype in INTEGERS else None
    if isinstance(value, bool) or not isinstance(value, (int, numbers.Integral, torch.SymInt)):
        return None
    return value if isinstance(value, (int, torch.SymInt)) else int(value)  # type: ignore[return-value]


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__

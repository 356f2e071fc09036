"""Checks of latents and codes, each in one scan, with errors that name the first wrong element."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from codecvq.errors import NonFiniteError, ShapeError
from codecvq.quantizer.frames import all_finite


def check_finite(latents: Tensor) -> None:
    """Raise NonFiniteError for NaN or infinity in latents `[B, D, T]`."""
    raise_if(~all_finite(latents), lambda: _not_finite(latents))


def check_in_range(codes: Tensor, sizes: tuple[int, ...], variable_depth: bool = False) -> None:
    """Raise ShapeError for codes `[B, n, T]` that are negative or not below their codebook size.

    With `variable_depth`, the last codes of a frame may be -1.
    """
    if variable_depth:
        absent = codes == -1
        raise_if((absent[:, :-1] & ~absent[:, 1:]), lambda: _not_a_suffix(codes))
        codes = codes.masked_fill(absent, 0)
    raise_if(_outside(codes, sizes), lambda: _out_of_range(codes, sizes))


def raise_if(wrong: Tensor, error: Callable[[], Exception]) -> None:
    """Raise the exception that `error` returns if any element of `wrong` is True.

    Inside torch.compile it asserts instead, which raises a RuntimeError: a compiled graph supports no other
    exception.
    """
    if torch.compiler.is_compiling():
        torch._assert_async(~wrong.any(), "codecvq: NaN or infinite latents, or codes out of range")
    elif bool(wrong if wrong.ndim == 0 else wrong.any()):
        raise error()


def _not_finite(latents: Tensor) -> NonFiniteError:
    item, frame = (int(i) for i in (~latents.isfinite().all(dim=1)).nonzero()[0])
    return NonFiniteError(
        f"latents of item {item} are NaN or infinite at frame {frame}. Check the audio and the encoder's "
        "weights."
    )


def _outside(codes: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Whether codes `[B, n, T]` are negative or not below their codebook size: bool, of any shape."""
    if codes.numel() and len(set(sizes)) == 1:
        least, greatest = codes.aminmax()
        return (least < 0) | (greatest >= sizes[0])
    high = torch.tensor(sizes[: codes.shape[1]], device=codes.device)[:, None]
    return (codes < 0) | (codes >= high)


def _not_a_suffix(codes: Tensor) -> ShapeError:
    absent = codes == -1
    b, n, t = (int(i) for i in (absent[:, :-1] & ~absent[:, 1:]).nonzero()[0])
    return ShapeError(
        f"codebook {n} of item {b} is absent (-1) at frame {t}, and codebook {n + 1} is not. Only the last "
        "codebooks of a frame may be absent."
    )


def _out_of_range(codes: Tensor, sizes: tuple[int, ...]) -> ShapeError:
    high = torch.tensor(sizes[: codes.shape[1]], device=codes.device)[:, None]
    b, n, t = (int(i) for i in ((codes < 0) | (codes >= high)).nonzero()[0])
    return ShapeError(
        f"code {int(codes[b, n, t])} of item {b}, codebook {n}, frame {t} is not in 0 … {sizes[n] - 1}. "
        "The codes belong to another codec, or still have the token offsets of a language model."
    )

"""Checks of codes that a caller passes to the `.cvq` writer."""

from __future__ import annotations

from typing import Any

import numpy as np

from codecvq.bitstream.identity import Identity
from codecvq.bitstream.layout import Layout
from codecvq.bitstream.packed import Codes
from codecvq.codec.blocks import first_change
from codecvq.errors import BitstreamError
from codecvq.limits import MAX_CODEBOOKS


def integer_codes(codes: Any, identity: Identity, coded_channels: int) -> Codes:
    """Return codes `[C, N, T]` as int64; `[N, T]` is one channel.

    `codes` may be a numpy array, a torch tensor or nested lists. Raises BitstreamError for another type or
    shape.
    """
    try:
        values = np.asarray(codes.detach().cpu() if hasattr(codes, "detach") else codes)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, dtypes without a numpy equivalent
        raise BitstreamError(
            f"codes cannot be read ({error}). Give integers [N, T] of one clip: an array, a tensor or lists."
        ) from error
    most = min(len(identity.sizes), MAX_CODEBOOKS)
    shape = list(values.shape)
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or len(values) != coded_channels or not 0 < values.shape[1] <= most:
        shapes = "[N, T] with" if coded_channels == 1 else f"[C, N, T] with C = {coded_channels} and"
        raise BitstreamError(
            f"codes have shape {shape}, but {shapes} N from 1 to {most} of one clip is needed. Pack a "
            "batch [B, N, T] clip by clip; for a recording of several channels set `channels`."
        )
    if values.dtype.kind not in "iu" and values.size:  # an empty list has dtype float64
        raise BitstreamError(f"codes are {values.dtype}, but integers are needed.")
    if values.dtype.kind == "u":
        values = np.minimum(values, np.iinfo(np.int64).max)  # larger values exceed every codebook size
    return values.astype(np.int64)


def checked_layout(values: Codes, identity: Identity, variable_depth: bool, first_frame: int) -> Layout:
    """Return the layout in which codes `[N, T]` of one channel are stored.

    An absent code is -1; it requires `variable_depth`, and only the last codebooks of a frame may be absent.
    `first_frame` is added to the frames in messages. Raises BitstreamError for a code outside its codebook,
    for a code that changes within a block of its stride, and for an absent code that is not allowed.
    """
    sizes, strides = identity.sizes[: len(values)], identity.strides[: len(values)]
    limits = np.array(sizes, dtype=np.int64)[:, None]
    outside = np.argwhere((values < (-1 if variable_depth else 0)) | (values >= limits))
    if len(outside):
        book, frame = outside[0].tolist()
        raise BitstreamError(
            f"code {values[book, frame]} of codebook {book} at frame {first_frame + frame} is not in "
            f"0..{sizes[book] - 1}. Give codes of this codec, without a language model's offsets."
        )
    if change := first_change(values, strides):
        book, frame = change
        raise BitstreamError(
            f"codes of codebook {book} change at frame {first_frame + frame}, but it has one code for "
            f"{strides[book]} frames. codecvq.quantizer.join_codes repeats codes over their frames."
        )
    layout = Layout(sizes, strides, values.shape[1])
    if not (values < 0).any():
        return layout
    depths = (values >= 0).sum(axis=0)
    gaps = np.argwhere((values < 0) != (np.arange(len(values))[:, None] >= depths))
    if len(gaps):
        raise BitstreamError(
            f"a code of frame {first_frame + gaps[0, 1]} is absent (-1), but a later codebook of that frame "
            "has a code. Only the last codebooks of a frame may be absent."
        )
    return layout.with_depths(depths)

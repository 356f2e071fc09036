"""Validation of codes that a caller passes to the `.cvq` writer."""

from __future__ import annotations

from typing import Any

import numpy as np

from codecvq.bitstream.identity import Identity
from codecvq.bitstream.layout import Layout
from codecvq.bitstream.packed import Codes
from codecvq.codec.blocks import first_change
from codecvq.errors import BitstreamError
from codecvq.limits import MAX_CODEBOOKS


def checked_codes(codes: Any, identity: Identity, variable_depth: bool) -> tuple[Codes, Layout]:
    """Return codes `[N, T]` as int64, and the layout of the codes that a file stores.

    `codes` may be a numpy array, a torch tensor or nested lists. An absent code is -1; it requires
    `variable_depth`, and only the last codebooks of a frame may be absent.

    Raises BitstreamError for another type or shape, for a code outside its codebook, for a code that changes
    within a block of its stride, and for an absent code that is not allowed.
    """
    values = _integers(codes, identity.sizes)
    sizes, strides = identity.sizes[: len(values)], identity.strides[: len(values)]
    limits = np.array(sizes, dtype=np.int64)[:, None]
    outside = np.argwhere((values < (-1 if variable_depth else 0)) | (values >= limits))
    if len(outside):
        book, frame = outside[0].tolist()
        raise BitstreamError(
            f"code {values[book, frame]} of codebook {book} at frame {frame} is not in 0..{sizes[book] - 1}. "
            "Give codes of this codec, without a language model's offsets."
        )
    if change := first_change(values, strides):
        book, frame = change
        raise BitstreamError(
            f"codes of codebook {book} change at frame {frame}, but it has one code for {strides[book]} "
            "frames. codecvq.quantizer.join_codes repeats codes over their frames."
        )
    layout = Layout(sizes, strides, values.shape[1])
    if not (values < 0).any():
        return values, layout
    depths = (values >= 0).sum(axis=0)
    gaps = np.argwhere((values < 0) != (np.arange(len(values))[:, None] >= depths))
    if len(gaps):
        raise BitstreamError(
            f"a code of frame {gaps[0, 1]} is absent (-1), but a later codebook of that frame has a code. "
            "Only the last codebooks of a frame may be absent."
        )
    return values, layout.with_depths(depths)


def _integers(codes: Any, sizes: tuple[int, ...]) -> Codes:  # Any: array, tensor or lists
    try:
        values = np.asarray(codes.detach().cpu() if hasattr(codes, "detach") else codes)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, dtypes without a numpy equivalent
        raise BitstreamError(
            f"codes cannot be read ({error}). Give integers [N, T] of one clip: an array, a tensor or lists."
        ) from error
    most = min(len(sizes), MAX_CODEBOOKS)
    if values.ndim != 2 or not 0 < len(values) <= most:
        raise BitstreamError(
            f"codes have shape {list(values.shape)}, but [N, T] of one clip with N from 1 to {most} is "
            "needed. Pack a batch [B, N, T] clip by clip."
        )
    if values.dtype.kind not in "iu" and values.size:  # an empty list has dtype float64
        raise BitstreamError(f"codes are {values.dtype}, but integers are needed.")
    if values.dtype.kind == "u":
        values = np.minimum(values, np.iinfo(np.int64).max)  # larger values exceed every codebook size
    return values.astype(np.int64)

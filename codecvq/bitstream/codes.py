"""Codes as a caller gives them, checked against the codec that they are of."""

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
    """Codes `[N, T]` as int64, and which of them a file holds (Any: numpy, torch or nested lists).

    Raises BitstreamError for another type or shape, a code beyond its codebook, codes that change within a
    block, and, without `variable_depth` or in front of another code of the frame, absent ones.
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
            f"a code of frame {gaps[0, 1]} is absent (-1) in front of one that is there. Only the last "
            "codebooks of a frame may be absent."
        )
    return values, layout.with_depths(depths)


def _integers(codes: Any, sizes: tuple[int, ...]) -> Codes:  # Any: see `checked_codes`
    try:
        values = np.asarray(codes.detach().cpu() if hasattr(codes, "detach") else codes)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, types that numpy does not have
        raise BitstreamError(
            f"codes cannot be read ({error}). Give integers [N, T] of one clip: an array, a tensor or lists."
        ) from error
    most = min(len(sizes), MAX_CODEBOOKS)
    if values.ndim != 2 or not 0 < len(values) <= most:
        raise BitstreamError(
            f"codes have shape {list(values.shape)}, but one clip's [N, T] with N from 1 to {most} "
            "is needed. A batch [B, N, T] is packed clip by clip."
        )
    if values.dtype.kind not in "iu" and values.size:  # an empty list has no type
        raise BitstreamError(f"codes are {values.dtype}, but integers are needed.")
    if values.dtype.kind == "u":
        values = np.minimum(values, np.iinfo(np.int64).max)  # what is beyond int64 is beyond every codebook
    return values.astype(np.int64)

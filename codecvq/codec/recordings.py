"""Encoding and decoding of recordings of any length, block by block.

A codec that can process streams takes memory that does not depend on the length. Other codecs process whole
recordings of at most `MAX_AUDIO_S`. The results are equal.

Letters: B streams (groups of channels of the recording, each coded by itself), C channels of the codec.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from codecvq.errors import StreamingError
from codecvq.limits import MAX_AUDIO_S

if TYPE_CHECKING:
    from torch import Tensor

    from codecvq.api.codec import AudioCodec, EncoderStream
    from codecvq.api.reach import Reach

Samples = npt.NDArray[np.float32]
Codes = npt.NDArray[np.integer[Any]]

CONTEXT_S = 2.0  # left context of a decoder whose receptive field is unknown or unlimited


def encode_blocks(
    codec: AudioCodec,
    blocks: Callable[[], Iterable[Samples]],
    batch: int = 1,
    num_codebooks: int | None = None,
) -> Iterator[Codes]:
    """Yield the codes of a recording, int64 `[B, N, t]`, in blocks of any length.

    `blocks` returns the samples of the whole recording in blocks `[B, C, n]`, at the sample rate of the
    codec; it may be called more than once. `batch` is B. Raises StreamingError if the codec cannot encode
    streams and the recording is longer than `MAX_AUDIO_S`.
    """
    import torch

    try:
        encoders = _encoders(codec, blocks, batch, num_codebooks)
    except StreamingError as error:
        for whole in _whole(blocks(), MAX_AUDIO_S * codec.sample_rate, codec, error):
            streams = torch.from_numpy(whole).split(1)
            codes = [codec.encode(stream, num_codebooks=num_codebooks) for stream in streams]
            yield torch.cat(codes).cpu().numpy()
        return
    waiting = [torch.zeros(1, 0, 0, dtype=torch.int64)] * len(encoders)
    for block in blocks():
        streams = torch.from_numpy(block).chunk(len(encoders))
        pushed = [encoder.push(stream) for encoder, stream in zip(encoders, streams, strict=True)]
        common, waiting = _common(waiting, pushed)
        yield common.numpy()
    common, _ = _common(waiting, [encoder.flush() for encoder in encoders])
    yield common.numpy()


def _encoders(
    codec: AudioCodec, blocks: Callable[[], Iterable[Samples]], batch: int, num_codebooks: int | None
) -> list[EncoderStream]:
    """Return one encoder for all streams, or one for each if the codec needs surveys of them.

    Raises StreamingError if the codec cannot encode streams.
    """
    import torch

    def survey(index: int) -> Tensor | None:
        return codec.survey(lambda: (torch.from_numpy(block[index : index + 1]) for block in blocks()))

    if (first := survey(0)) is None:
        return [codec.stream_encoder(batch, num_codebooks)]
    surveys = [first, *(survey(index) for index in range(1, batch))]
    return [codec.stream_encoder(1, num_codebooks, own) for own in surveys]


def _common(waiting: Sequence[Tensor], new: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Append new codes `[b, N, t]` of each encoder to those that wait for the other encoders.

    Returns the codes `[B, N, t]` of frames that all encoders have, and the rest of each.
    """
    import torch

    codes = [
        torch.cat([before, after.cpu()], dim=2) if before.shape[2] else after.cpu()
        for before, after in zip(waiting, new, strict=True)
    ]
    frames = min(part.shape[2] for part in codes)
    return torch.cat([part[:, :, :frames] for part in codes]), [part[:, :, frames:] for part in codes]


def decode_blocks(codec: AudioCodec, blocks: Iterable[Codes], batch: int = 1) -> Iterator[Samples]:
    """Yield the samples of a recording, `[B, C, n]`, in blocks of any length, for codes `[B, N, t]`.

    `batch` is B. The number of samples is that of all frames. Raises StreamingError if the codec cannot
    decode streams and the recording is longer than `MAX_AUDIO_S`.
    """
    import torch

    try:
        decoder = codec.stream_decoder(batch)
    except StreamingError as error:
        limit = MAX_AUDIO_S * codec.sample_rate / codec.hop_length
        for whole in _whole(blocks, limit, codec, error):
            samples = [codec.decode(stream) for stream in _codes(whole).split(1)]
            yield torch.cat(samples).float().cpu().numpy()
        return
    for block in blocks:
        yield decoder.push(_codes(block)).cpu().numpy()
    yield decoder.flush().cpu().numpy()


def context_frames(codec: AudioCodec) -> int:
    """Return the number of frames before a part of a recording to decode with it.

    If the receptive field of the decoder is limited, the part then equals that of the whole recording.
    Otherwise it is the number of frames of `CONTEXT_S`.
    """
    reach: Reach | None = getattr(codec, "decoder_reach", None)  # an optional attribute of third-party codecs
    if reach is not None and reach.past is not None:
        return reach.past
    return math.ceil(CONTEXT_S * codec.frame_rate)


def _whole(
    blocks: Iterable[npt.NDArray[Any]], limit: float, codec: AudioCodec, reason: StreamingError
) -> Iterator[npt.NDArray[Any]]:
    """Yield all blocks `[B, X, n]` as one; nothing without a block.

    Raises StreamingError above `limit` elements.
    """
    collected, count = [], 0
    for block in blocks:
        collected.append(block)
        count += block.shape[2]
        if count > limit:
            raise StreamingError(
                f"the recording is longer than {MAX_AUDIO_S / 3600:g} h, but codec {codec.name!r} must "
                f"process it as a whole: {reason}"
            )
    if collected:
        yield np.concatenate(collected, axis=2)


def _codes(codes: Codes) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(codes, dtype=np.int64))

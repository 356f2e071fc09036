"""`decode_with_loss`: decoding of whole recordings whose frames were lost in part."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codecvq.arguments import checked_codes
from codecvq.codec.streams import StreamDecoder
from codecvq.errors import ShapeError, StreamingError
from codecvq.streaming import State, StreamingModule, append

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec, DecoderStream


def decode_with_loss(codec: AudioCodec, codes: Tensor, lost: Tensor) -> Tensor:
    """Decode codes `[1, n, T]` of which the frames `lost`, bool `[T]`, did not arrive. Returns `[1, C, S]`.

    Lost frames are concealed as by `StreamDecoder.lost`, also for codecs that cannot decode streams. Their
    codes have no effect. Raises ShapeError for arguments of the wrong type or shape.
    """
    codes = checked_codes(codes, codec.num_codebooks)
    if lost.dtype != torch.bool or lost.shape != codes.shape[2:] or len(codes) != 1:
        raise ShapeError(
            f"codes {list(codes.shape)} and lost {lost.dtype} {list(lost.shape)} do not fit; needed are "
            "codes [1, n, T] and booleans [T]. Decode the recordings one by one."
        )
    stream, outputs, at = _decoder(codec), [], 0
    for is_lost, run in groupby(lost.tolist()):
        frames = len(list(run))
        outputs.append(stream.lost(frames) if is_lost else stream.push(codes[:, :, at : at + frames]))
        at += frames
    return torch.cat([*outputs, stream.flush()], dim=2)


def _decoder(codec: AudioCodec) -> DecoderStream:
    try:
        return codec.stream_decoder()
    except StreamingError:
        return StreamDecoder(codec, _Whole(codec), 1)  # type: ignore[arg-type]


class _Whole(StreamingModule):
    """Decodes a recording at its end."""

    def __init__(self, codec: AudioCodec) -> None:
        self._codec = codec

    def start(self, device: torch.device) -> State:
        return {"codes": torch.zeros(1, 0, 0, dtype=torch.int64, device=device)}

    def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        before = state["codes"]
        assert isinstance(before, Tensor)
        codes = append(before, block)
        return (self._codec.decode(codes) if last else codes[:, :, :0]), {"codes": codes}

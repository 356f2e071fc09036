"""Streaming of quantizers: latents to codes and codes to latents, block by block."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from codecvq.api.reach import Reach
from codecvq.errors import StreamingError
from codecvq.quantizer.author import Quantizer
from codecvq.streaming import FramewiseModule, StreamingModule, Windows


def frames_per_block(quantizer: Quantizer) -> int:
    """Return the number of frames that streams process together: the least common multiple of the strides."""
    return math.lcm(*quantizer.strides)


def encode_stream(quantizer: Quantizer, num_codebooks: int | None) -> StreamingModule:
    """Return a stream of `quantizer.encode`: latents `[B, D, n]` -> codes `[B, num_codebooks, m]`.

    Raises StreamingError if frames depend on all earlier frames.
    """
    return _stream(quantizer, lambda latents: quantizer.encode(latents, num_codebooks))


def decode_stream(quantizer: Quantizer) -> StreamingModule:
    """Return a stream of `quantizer.decode`: codes `[B, n, T]` -> latents `[B, D, m]`.

    Raises StreamingError if frames depend on all earlier frames.
    """
    return _stream(quantizer, quantizer.decode)


def latency_frames(quantizer: Quantizer, decoder_lookahead: int) -> int:
    """Return the number of frames, its own included, on which the decoded audio of a frame depends.

    A code of a block depends on all frames of the block. `decoder_lookahead` is in frames. The result is that
    of the frame of a block with the greatest number.
    """
    block, lookahead = frames_per_block(quantizer), quantizer.block_reach.future
    most = 0
    for frame in range(block):
        last_latent = frame + decoder_lookahead  # that the decoder reads
        last_code = _block_end(last_latent, block) + lookahead if lookahead else last_latent
        most = max(most, _block_end(last_code, block) + lookahead + 1 - frame)
    return most


def _block_end(frame: int, block: int) -> int:
    """Return the last frame of the block that contains a frame."""
    return (frame // block + 1) * block - 1


def _stream(quantizer: Quantizer, function: Callable[[Tensor], Tensor]) -> StreamingModule:
    block = frames_per_block(quantizer)
    reach = quantizer.block_reach
    if reach == Reach(0, 0) and block == 1:
        return FramewiseModule(function, products=True)
    if reach.past is None:
        raise StreamingError(
            f"a frame of quantizer {type(quantizer).__name__} depends on all earlier frames. "
            "Use a quantizer with a finite reach, or process whole recordings."
        )
    return Windows(function, reach, block=block)

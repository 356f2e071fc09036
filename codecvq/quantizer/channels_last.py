"""`ChannelsLast`: any quantizer on vectors `[..., D]`, as transformers have them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from codecvq.errors import ShapeError
from codecvq.quantizer.author import Quantizer
from codecvq.quantizer.results import Quantized


class ChannelsLast(nn.Module):
    """A quantizer for `[..., D]`: the last axis is quantized, the others are kept as they are.

        quantizer = ChannelsLast(codecvq.build_quantizer("fsq", dim=64, levels=[8, 5, 5, 5]))
        out = quantizer(hidden)     # hidden [B, L, 64] -> out.latents [B, L, 64], out.codes [B, L, N]

    The first of several axes is the batch, whose items quantizer dropout treats apart.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(
        self, vectors: Tensor, mask: Tensor | None = None, num_codebooks: int | None = None
    ) -> Quantized:
        """As the quantizer's own, with latents `[..., D]`, codes `[..., N]` and a mask `[...]`."""
        shape = self._check(vectors, self.quantizer.dim, "D")
        if mask is not None and mask.shape != shape:
            raise ShapeError(f"mask is {list(mask.shape)}; needed is {list(shape)}, one for each vector")
        flat_mask = None if mask is None else mask.reshape(_batch_and_frames(shape))
        out = self.quantizer(_channels_first(vectors), flat_mask, num_codebooks)
        active = None if out.active is None else _channels_last(out.active, shape)
        latents, codes = _channels_last(out.latents, shape), _channels_last(out.codes, shape)
        return Quantized(latents, codes, out.losses, out.metrics, active)

    def encode(self, vectors: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Codes alone: `[..., D]` -> int64 `[..., n]`."""
        shape = self._check(vectors, self.quantizer.dim, "D")
        return _channels_last(self.quantizer.encode(_channels_first(vectors), num_codebooks), shape)

    def decode(self, codes: Tensor) -> Tensor:
        """Latents of codes: `[..., n]` -> float32 `[..., D]`."""
        shape = self._check(codes, codes.shape[-1] if codes.ndim else 0, "N")
        return _channels_last(self.quantizer.decode(_channels_first(codes)), shape)

    def _check(self, tensor: Tensor, last: int, letter: str) -> torch.Size:
        """The axes before the last."""
        if tensor.ndim == 0 or tensor.shape[-1] != last:
            raise ShapeError(f"given is {list(tensor.shape)}; needed is [..., {letter}] with {letter}={last}")
        return tensor.shape[:-1]


def _batch_and_frames(shape: torch.Size) -> tuple[int, int]:
    batch = shape[0] if len(shape) > 1 else 1
    return batch, math.prod(shape[1:] if len(shape) > 1 else shape)


def _channels_first(tensor: Tensor) -> Tensor:
    """`[..., X]` -> `[B, X, T]`."""
    return tensor.reshape(*_batch_and_frames(tensor.shape[:-1]), tensor.shape[-1]).transpose(1, 2)


def _channels_last(tensor: Tensor, shape: torch.Size) -> Tensor:
    """`[B, X, T]` -> `[..., X]`."""
    return tensor.transpose(1, 2).reshape(*shape, tensor.shape[1])

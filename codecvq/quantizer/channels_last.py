"""`ChannelsLast`, which applies any quantizer to vectors `[..., D]`, the layout of transformers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from codecvq.errors import ShapeError
from codecvq.quantizer.author import Quantizer
from codecvq.quantizer.results import Quantized


class ChannelsLast(nn.Module):
    """Wraps a quantizer for inputs `[..., D]`: quantizes the last axis and preserves the others.

        quantizer = ChannelsLast(codecvq.build_quantizer("fsq", dim=64, levels=[8, 5, 5, 5]))
        out = quantizer(hidden)     # hidden [B, L, 64] -> out.latents [B, L, 64], out.codes [B, L, N]

    If there are several other axes, the first is the batch. Quantizer dropout draws a depth for each batch
    item.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(
        self, vectors: Tensor, mask: Tensor | None = None, num_codebooks: int | None = None
    ) -> Quantized:
        """Call the quantizer with latents `[..., D]` and a mask `[...]`; codes are `[..., N]`."""
        shape = self._check(vectors, self.quantizer.dim, "D")
        if mask is not None and mask.shape != shape:
            raise ShapeError(f"mask is {list(mask.shape)}; needed is {list(shape)}, one for each vector")
        flat_mask = None if mask is None else mask.reshape(_batch_and_frames(shape))
        out = self.quantizer(_channels_first(vectors), flat_mask, num_codebooks)
        active = None if out.active is None else _channels_last(out.active, shape)
        latents, codes = _channels_last(out.latents, shape), _channels_last(out.codes, shape)
        return Quantized(latents, codes, out.losses, out.metrics, active)

    def encode(self, vectors: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Return only the codes: `[..., D]` -> int64 `[..., n]`."""
        shape = self._check(vectors, self.quantizer.dim, "D")
        return _channels_last(self.quantizer.encode(_channels_first(vectors), num_codebooks), shape)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the latents of codes: `[..., n]` -> float32 `[..., D]`."""
        shape = self._check(codes, codes.shape[-1] if codes.ndim else 0, "N")
        return _channels_last(self.quantizer.decode(_channels_first(codes)), shape)

    def _check(self, tensor: Tensor, last: int, letter: str) -> torch.Size:
        """Return all axes but the last."""
        if tensor.ndim == 0 or tensor.shape[-1] != last:
            raise ShapeError(f"given is {list(tensor.shape)}; needed is [..., {letter}] with {letter}={last}")
        return tensor.shape[:-1]


def _batch_and_frames(shape: torch.Size) -> tuple[int, int]:
    batch = shape[0] if len(shape) > 1 else 1
    return batch, math.prod(shape[1:] if len(shape) > 1 else shape)


def _channels_first(tensor: Tensor) -> Tensor:
    """Convert `[..., X]` to `[B, X, T]`."""
    return tensor.reshape(*_batch_and_frames(tensor.shape[:-1]), tensor.shape[-1]).transpose(1, 2)


def _channels_last(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Convert `[B, X, T]` to `[..., X]`."""
    return tensor.transpose(1, 2).reshape(*shape, tensor.shape[1])

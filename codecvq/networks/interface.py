"""`Network`: an encoder and a decoder that fit each other."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Network:
    """What a network plugin makes.

    `encoder(wav, mask)`: `[B, C, S]` with S a multiple of the hop, mask `[B, T]` bool or None -> latents `[B,
    D, T]`, T = S/hop. `decoder(latents, mask)`: `[B, D, T]` -> `[B, C, T * hop]`. With a mask, what stands at
    padded frames changes nothing at real ones. T is at least 1.
    """

    encoder: nn.Module
    decoder: nn.Module
    dim: int  # D
    hop_length: int  # samples a frame


def zero_padding(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """`hidden` `[B, T, X]` with zeros at padded frames, so that a convolution sees there what it sees beyond
    the end.
    """
    return hidden if mask is None else hidden * mask[:, :, None].to(hidden.dtype)

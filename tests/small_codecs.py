"""Codecs for tests without a network, derived from `WrappedCodec`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from codecvq import WrappedCodec
from codecvq.quantizer import CodeTables

RATE, HOP = 16_000, 160


class LevelCodec(WrappedCodec):
    """Codes are the mixed-radix digits of the mean of each frame, a number in [0, 1).
    The first n codebooks give the number to n digits. `batches` lists the shapes of the inputs of `encode`.
    """

    def __init__(
        self,
        codebook_sizes: Sequence[int] = (256, 256),
        *,
        name: str = "level",
        weights: str = "a",
        sample_rate: int = RATE,
        hop_length: int = HOP,
        channels: int = 1,
        strides: Sequence[int] | None = None,
    ) -> None:
        super().__init__(
            name=name,
            sample_rate=sample_rate,
            hop_length=hop_length,
            codebook_sizes=codebook_sizes,
            weights=f"{name} {weights}",
            codebooks=name,
            channels=channels,
            strides=strides,
            prefix_decodable=True,
        )
        self.batches: list[tuple[int, ...]] = []

    def encode(self, wav: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        self.batches.append(tuple(wav.shape))
        return super().encode(wav, *arguments, **keywords)

    def encode_frames(self, wav: Tensor) -> Tensor:
        means = rearrange(wav.double(), "b c (t h) -> b t (c h)", h=self.hop_length).mean(dim=-1)
        rest, codes = (means.clamp(-1, 1) + 1) / 2, []
        for size, stride in zip(self.codebook_sizes, self.strides, strict=True):
            digit = (rest * size).long().clamp(max=size - 1)  # [B, T]
            digit = digit[:, ::stride].repeat_interleave(stride, dim=1)[:, : digit.shape[1]]
            codes.append(digit)
            rest = (rest * size - digit).clamp(0, 1)
        return torch.stack(codes, dim=1)

    def decode_frames(self, codes: Tensor) -> Tensor:
        value, unit = torch.zeros(codes.shape[0], codes.shape[2], dtype=torch.float64), 1.0
        for digit, size in zip(codes.unbind(dim=1), self.codebook_sizes, strict=False):
            unit /= size
            value = value + digit * unit
        wav = (value + unit / 2) * 2 - 1
        return wav.repeat_interleave(self.hop_length, dim=-1)[:, None].expand(-1, self.channels, -1)


class StoredCodec(LevelCodec):
    """A level codec with variable depth (absent codes) and learned tables."""

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        strides: Sequence[int] | None = None,
        variable_depth: bool = False,
        tables: CodeTables | None = None,
        *,
        name: str = "stored",
        weights: str = "a",
    ) -> None:
        super().__init__(codebook_sizes, name=name, weights=weights, hop_length=320, strides=strides)
        self.variable_depth, self.tables = variable_depth, tables

    def code_tables(self) -> CodeTables | None:
        return self.tables


class MulawCodec(WrappedCodec):
    """mu-law of each sample, with one codebook per sample of a frame. More `levels` reduce distortion."""

    def __init__(
        self,
        levels: int = 16,
        *,
        sample_rate: int = RATE,
        hop_length: int = 8,
        channels: int = 1,
        name: str = "mulaw",
    ) -> None:
        super().__init__(
            name=name,
            sample_rate=sample_rate,
            hop_length=hop_length,
            codebook_sizes=(levels,) * hop_length,
            weights="mulaw 1",
            channels=channels,
        )
        self.levels = levels

    def encode_frames(self, wav: Tensor) -> Tensor:
        mono = wav.mean(dim=1)  # [B, S]
        curved = mono.sign() * torch.log1p(255 * mono.abs().clamp(max=1)) / torch.log(torch.tensor(256.0))
        codes = ((curved + 1) / 2 * (self.levels - 1)).round().long()
        return rearrange(codes, "b (t n) -> b n t", n=self.hop_length)

    def decode_frames(self, codes: Tensor) -> Tensor:
        curved = rearrange(codes, "b n t -> b 1 (t n)") / (self.levels - 1) * 2 - 1
        wav = curved.sign() * ((1 + 255.0) ** curved.abs() - 1) / 255
        return wav.expand(-1, self.channels, -1)

"""A codec without a network for tests: mu-law of each sample, one codebook for each sample of a frame."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad


@dataclass
class MulawCodec:
    """Fulfils what `codecvq.Codec` promises; more `levels` are less distortion."""

    levels: int = 16  # K
    sample_rate: int = 16_000
    hop_length: int = 8
    channels: int = 1
    name: str = "mulaw"

    @property
    def frame_rate(self) -> Fraction:
        return Fraction(self.sample_rate, self.hop_length)

    @property
    def num_codebooks(self) -> int:
        return self.hop_length

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.levels,) * self.hop_length

    @property
    def bitrate(self) -> float:
        return float(self.sample_rate) * torch.tensor(float(self.levels)).log2().item()

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def weights_sha256(self) -> str:
        return hashlib.sha256(f"{self.levels}".encode()).hexdigest()

    @property
    def codebooks_sha256(self) -> str:
        return self.weights_sha256

    @property
    def quantizer_info(self) -> dict[str, str]:
        return {"name": "mulaw", "plugin": "tests", "version": "0", "api": "1"}

    def encode(self, wav: Tensor) -> Tensor:
        """Codes `[B, N, T]` of wav `[B, C, S]`."""
        mono = wav.mean(dim=1)  # [B, S]
        mono = pad(mono, (0, -mono.shape[-1] % self.hop_length))
        curved = mono.sign() * torch.log1p(255 * mono.abs().clamp(max=1)) / torch.log(torch.tensor(256.0))
        codes = ((curved + 1) / 2 * (self.levels - 1)).round().long()
        return rearrange(codes, "b (t n) -> b n t", n=self.hop_length)

    def decode(self, codes: Tensor, num_samples: int | None = None) -> Tensor:
        """wav `[B, C, num_samples]`."""
        curved = rearrange(codes, "b n t -> b 1 (t n)") / (self.levels - 1) * 2 - 1
        wav = curved.sign() * ((1 + 255.0) ** curved.abs() - 1) / 255
        return wav[..., :num_samples].expand(-1, self.channels, -1)

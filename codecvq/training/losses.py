"""Losses of the decoded audio, as named, weighted terms.

The adversarial terms come with the training issue; their place is `LossConfig`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.networks.fourier import power_spectra

FLOOR = 1e-5  # of magnitudes before the logarithm


class MelLoss(nn.Module):
    """Mean absolute difference of decadic log-mel magnitudes over several windows (arXiv:2306.06546 §3.4,
    without its linear term).

    Args: `windows` in samples, hop a quarter of each; `mels` bands for each window. A band that holds no
    frequency of its window is left out, as it would be constant.
    """

    def __init__(self, sample_rate: int, windows: Sequence[int], mels: Sequence[int]) -> None:
        super().__init__()
        import librosa.filters

        self.windows = tuple(windows)
        for size, bands in zip(windows, mels, strict=True):
            mel = torch.from_numpy(librosa.filters.mel(sr=sample_rate, n_fft=size, n_mels=bands, norm=None)).T
            self.register_buffer(f"mel_{size}", mel[:, mel.sum(dim=0) > 0].contiguous(), persistent=False)
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)

    def forward(self, decoded: Tensor, reference: Tensor) -> Tensor:
        """0-d loss of audio `[B, C, S]` against `[B, C, S]`, in float32 whatever autocast says."""
        with torch.autocast(decoded.device.type, enabled=False):
            ours, theirs = decoded.float().flatten(0, 1), reference.float().flatten(0, 1)  # [B·C, S]
            losses = []
            for size in self.windows:
                with torch.no_grad():
                    target = self._log_mel(theirs, size)
                losses.append(F.l1_loss(self._log_mel(ours, size), target))
            return torch.stack(losses).mean()

    def _log_mel(self, wav: Tensor, size: int) -> Tensor:
        frames = F.pad(wav, (size // 2, size // 2)).unfold(1, size, size // 4)  # [B·C, frames, W]
        power = power_spectra(frames * self.get_buffer(f"window_{size}"))
        magnitudes = (power + FLOOR**2).sqrt()  # smooth at 0
        return (magnitudes @ self.get_buffer(f"mel_{size}")).clamp(min=FLOOR).log10()


class WaveformLoss(nn.Module):
    """Mean absolute difference of samples."""

    def forward(self, decoded: Tensor, reference: Tensor) -> Tensor:
        """0-d loss of audio `[B, C, S]` against `[B, C, S]`."""
        return F.l1_loss(decoded.float(), reference.float())


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms; a term of weight 0 is not computed."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # in a recipe, a misspelt key is an error

    mel: float = 15.0
    mel_windows: tuple[int, ...] = (128, 256, 512, 1024, 2048)  # samples
    mel_bands: tuple[int, ...] = (10, 20, 40, 80, 160)  # a window each
    waveform: float = 0.0


def build_losses(config: LossConfig, sample_rate: int) -> tuple[nn.ModuleDict, dict[str, float]]:
    """Loss modules by name, called with (decoded, reference), and their weights."""
    weights = {
        name: weight for name, weight in (("mel", config.mel), ("waveform", config.waveform)) if weight
    }
    modules: dict[str, nn.Module] = {}
    if "mel" in weights:
        modules["mel"] = MelLoss(sample_rate, config.mel_windows, config.mel_bands)
    if "waveform" in weights:
        modules["waveform"] = WaveformLoss()
    return nn.ModuleDict(modules), weights

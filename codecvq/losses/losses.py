"""Losses of the decoded audio, as named, weighted terms. Adversarial ones are in `adversary`, those with a
module of their own in `loudness`, `similarity` and `spread`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.errors import OptionError
from codecvq.losses.loudness import LoudnessLoss
from codecvq.losses.similarity import SimilarityLoss
from codecvq.losses.spread import SpreadLoss
from codecvq.networks.fourier import mel_filters, power_spectra

FLOOR = 1e-5  # of magnitudes before the logarithm


class MelLoss(nn.Module):
    """Mean absolute difference of decadic log-mel magnitudes over several windows (after arXiv:2306.06546
    §3.4; without its linear term, and the mean over the windows, not their sum).

    Args: `windows` in samples, hop a quarter of each; `mels` bands for each window; `floor` below which
    magnitudes, those of windowed sums, count as equal. A band that holds no frequency of its window is left
    out, as it would be constant.
    """

    def __init__(
        self, sample_rate: int, windows: Sequence[int], mels: Sequence[int], floor: float = FLOOR
    ) -> None:
        super().__init__()
        self.floor = floor
        self.windows = tuple(windows)
        for size, bands in zip(windows, mels, strict=True):
            mel = mel_filters(sample_rate, size, bands)
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
        return (magnitudes @ self.get_buffer(f"mel_{size}")).clamp(min=self.floor).log10()


class WaveformLoss(nn.Module):
    """Mean absolute difference of samples."""

    def forward(self, decoded: Tensor, reference: Tensor) -> Tensor:
        """0-d loss of audio `[B, C, S]` against `[B, C, S]`."""
        return F.l1_loss(_precise(decoded), _precise(reference))


class _OverWindows(nn.Module):
    """Losses of spectra under several Hann windows, in samples, hop a quarter of each."""

    def __init__(self, windows: Sequence[int]) -> None:
        super().__init__()
        self.windows = tuple(windows)
        for size in windows:
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)

    def forward(self, decoded: Tensor, reference: Tensor) -> Tensor:
        """0-d loss of audio `[B, C, S]` against `[B, C, S]`, mean over items and windows, in float32."""
        with torch.autocast(decoded.device.type, enabled=False):
            ours, theirs = _precise(decoded), _precise(reference)
            return torch.stack([self.items(ours, theirs, size).mean() for size in self.windows]).mean()

    def items(self, decoded: Tensor, reference: Tensor, size: int) -> Tensor:
        """Losses `[B]` of `[B, C, S]` against `[B, C, S]` under the window of `size` samples."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it measures: write items()")

    def _powers(self, wav: Tensor, size: int) -> Tensor:
        frames = F.pad(wav, (size // 2, size // 2)).unfold(2, size, size // 4)
        return power_spectra(frames * self.get_buffer(f"window_{size}"))


class StftLoss(_OverWindows):
    """Multi-resolution STFT loss (arXiv:1910.11480 §2.2): for each window, with magnitudes M and M̂,

        |M - M̂|_F / |M|_F  +  mean |ln M - ln M̂|

    of each item. Magnitudes are those of the windowed sum divided by the sum of the window, so that a sine of
    amplitude 1 has about 1/2; the logarithm stops at -100 dB.
    """

    def items(self, decoded: Tensor, reference: Tensor, size: int) -> Tensor:
        """Losses `[B]` of `[B, C, S]` against `[B, C, S]` under the window of `size` samples."""
        ours = self._magnitudes(decoded, size)
        with torch.no_grad():
            theirs = self._magnitudes(reference, size)
        apart = (theirs - ours).norm(dim=1) / theirs.norm(dim=1)
        return apart + (ours.log() - theirs.log()).abs().mean(dim=1)

    def _magnitudes(self, wav: Tensor, size: int) -> Tensor:
        scale = 1 / self.get_buffer(f"window_{size}").sum()
        return (self._powers(scale * wav, size) + FLOOR**2).sqrt().flatten(1)


class ComplexStftLoss(_OverWindows):
    """Distance of complex spectra, which sees phases: for each window and item Σ |X - X̂|² / Σ |X|², both
    under a root.
    """

    def items(self, decoded: Tensor, reference: Tensor, size: int) -> Tensor:
        """Losses `[B]` of `[B, C, S]` against `[B, C, S]` under the window of `size` samples. The
        transform is linear, so it is that of the difference.
        """
        with torch.no_grad():
            energy = self._energy(reference, size)
        apart = self._energy(decoded - reference, size)
        return ((apart + FLOOR**2) / (energy + FLOOR**2)).sqrt()

    def _energy(self, wav: Tensor, size: int) -> Tensor:
        return self._powers(wav, size).flatten(1).sum(dim=1)


def _precise(wav: Tensor) -> Tensor:
    """Audio in float32, or in float64 where it comes so."""
    return wav if wav.dtype == torch.float64 else wav.float()


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms; a term of weight 0 is not computed.

    With `balance` the weights are shares of the gradient at the decoded audio (see `balancer`), and
    `balance_norm` is what they share out.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # in a recipe, a misspelt key is an error

    mel: float = 15.0
    mel_windows: tuple[int, ...] = (128, 256, 512, 1024, 2048)  # samples
    mel_bands: tuple[int, ...] = (10, 20, 40, 80, 160)  # a window each
    #: The usual one lies far below what 16 bits hold. Recordings with digital silence or cut bands teach
    #: faster with 1e-2, which is about -85 dB: what is below is neither heard nor learned.
    mel_floor: float = 1e-5
    stft: float = 0.0
    complex_stft: float = 0.0
    stft_windows: tuple[int, ...] = (512, 1024, 2048)  # samples, of both
    waveform: float = 0.0
    loudness: float = 0.0  # what PESQ's model hears; about one and a half times the weight of mel
    similarity: float = 0.0  # of neurograms, what ViSQOL compares; about three times the weight of mel
    spread: float = 0.0  # local variance of log magnitudes: that they are not too smooth
    adversarial: float = 0.0  # these two need the recipe's `discriminator`
    feature_matching: float = 0.0
    balance: bool = False
    balance_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.mel and len(self.mel_windows) != len(self.mel_bands):
            raise OptionError(
                f"losses.mel_windows has {len(self.mel_windows)} entries and mel_bands {len(self.mel_bands)}"
                "; needed is a number of bands for each window."
            )
        for name, used in (("mel_windows", self.mel), ("stft_windows", self.stft or self.complex_stft)):
            windows = getattr(self, name)
            if used and (not windows or any(size < 4 or size % 2 for size in windows)):
                raise OptionError(
                    f"losses.{name} is {list(windows)}; needed are even numbers of samples from 4 up, one at "
                    "least."
                )
        if self.mel and min(self.mel_bands) < 1:
            raise OptionError(f"losses.mel_bands is {list(self.mel_bands)}; each must be at least 1.")
        for name in ("mel_floor", "balance_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise OptionError(f"losses.{name} is {getattr(self, name)}; it must be above 0.")
        for name, weight in self.weights().items():
            if not 0 < weight < math.inf:
                raise OptionError(f"losses.{name} is {weight}; a weight must be 0, for none, or more.")

    def weights(self) -> dict[str, float]:
        """The weights that are not 0, by the name of their term."""
        names = (
            "mel",
            "stft",
            "complex_stft",
            "waveform",
            "loudness",
            "similarity",
            "spread",
            "adversarial",
            "feature_matching",
        )
        return {name: getattr(self, name) for name in names if getattr(self, name)}


def build_losses(config: LossConfig, sample_rate: int) -> nn.ModuleDict:
    """The loss modules by name, called with (decoded, reference); not the adversarial ones."""
    builders: dict[str, Callable[[], nn.Module]] = {
        "mel": lambda: MelLoss(sample_rate, config.mel_windows, config.mel_bands, config.mel_floor),
        "stft": lambda: StftLoss(config.stft_windows),
        "complex_stft": lambda: ComplexStftLoss(config.stft_windows),
        "waveform": WaveformLoss,
        "loudness": lambda: LoudnessLoss(sample_rate),
        "similarity": lambda: SimilarityLoss(sample_rate),
        "spread": lambda: SpreadLoss(sample_rate),
    }
    return nn.ModuleDict({name: builders[name]() for name in config.weights() if name in builders})

"""The multi-resolution, multi-band discriminator on complex spectra (arXiv:2306.06546 §3.3).

Each window has a complex STFT, and each frequency band its own convolutions. Their outputs are concatenated
along the frequencies and scored together. With one band, it is a multi-resolution discriminator.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from codecvq.errors import OptionError
from codecvq.networks.interface import Discriminator, DiscriminatorOutput

SLOPE = 0.1
MIN_MAGNITUDE = 1e-4  # magnitude below which compression is linear: its derivative at 0 would be infinite


def build_multi_band(
    *,
    sample_rate: int,
    channels: int = 1,
    windows: Sequence[int] = (2048, 1024, 512),
    bands: Sequence[float] = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0),
    filters: int = 32,
    stride: int = 1,
    power: float = 1.0,
) -> Discriminator:
    """Build networks for `windows` (samples, hop a quarter) and `bands` (edges as fractions of the spectrum).

    `stride` is the stride of the first convolution along the frequencies: 1 as in the paper; 4 takes a
    quarter of the time, for training on CPUs. `power` compresses magnitudes: below 1, quiet frequencies have
    more influence.
    """
    del sample_rate
    edges = list(bands)
    if len(edges) < 2 or edges != sorted(set(edges)) or edges[0] < 0 or edges[-1] > 1:
        raise OptionError(
            f"multi_band: bands is {edges}; needed are at least two rising edges in [0.0, 1.0]."
        )
    if not windows or min(windows) < 64 or filters < 1 or stride < 1 or not 0 < power <= 1:
        raise OptionError(
            f"multi_band: windows {list(windows)}, filters {filters}, stride {stride}, power {power}: needed "
            "are windows of at least 64 samples, positive numbers, and a power in (0, 1]."
        )
    return MultiBand(channels, windows, edges, filters, stride, power)


class MultiBand(Discriminator):
    """One `Resolution` per window."""

    def __init__(
        self,
        channels: int,
        windows: Sequence[int],
        edges: Sequence[float],
        filters: int,
        stride: int,
        power: float,
    ) -> None:
        super().__init__(min_samples=1)
        self.resolutions = nn.ModuleList(
            Resolution(channels, size, edges, filters, stride, power) for size in windows
        )

    def discriminate(self, wav: Tensor) -> list[DiscriminatorOutput]:
        """Return one output per window for audio `[B, C, S]`, scores `[B, 1, frames, bins]`."""
        return [resolution(wav) for resolution in self.resolutions]


class Resolution(nn.Module):
    """The networks of all bands of one window's spectra."""

    window: Tensor  # [W]

    def __init__(
        self,
        channels: int,
        window_length: int,
        edges: Sequence[float],
        filters: int,
        stride: int,
        power: float,
    ) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(window_length), persistent=False)
        bins = window_length // 2 + 1
        cuts = [round(edge * bins) for edge in edges]
        self.bands = list(pairwise(cuts))
        self.stacks = nn.ModuleList(_stack(2 * channels, filters, stride) for _ in self.bands)
        self.score = weight_norm(nn.Conv2d(filters, 1, (3, 3), padding=(1, 1)))
        self.power = power

    def forward(self, wav: Tensor) -> DiscriminatorOutput:
        """Compute features and scores: `[B, C, S]` -> scores `[B, 1, frames, bins after the strides]`."""
        with torch.autocast(wav.device.type, enabled=False):
            spectra = self._spectra(wav.float())
        features, outputs = [], []
        for (low, high), stack in zip(self.bands, self.stacks, strict=True):
            hidden = spectra[..., low:high].contiguous(memory_format=torch.channels_last)
            for layer in stack:  # type: ignore[attr-defined]
                hidden = F.leaky_relu(_convolved(layer, hidden), SLOPE)
                features.append(hidden)
            outputs.append(hidden)
        return DiscriminatorOutput(self.score(torch.cat(outputs, dim=3)), tuple(features))

    def _spectra(self, wav: Tensor) -> Tensor:
        """Compute spectra: `[B, C, S]` -> `[B, 2 C, frames, bins]`.

        They are scaled so that white noise keeps its variance.
        """
        size = len(self.window)
        padded = F.pad(wav, (size // 2, size // 2))
        frames = padded.unfold(2, size, size // 4) * self.window  # [B, C, frames, W]
        spectra = torch.view_as_real(torch.fft.rfft(frames) / self.window.square().sum().sqrt())
        if self.power < 1:
            squared = spectra.square().sum(dim=-1, keepdim=True) + MIN_MAGNITUDE**2
            spectra = spectra * squared.pow((self.power - 1) / 2)
        return torch.cat([spectra[..., 0], spectra[..., 1]], dim=1)


def _convolved(layer: nn.Conv2d, hidden: Tensor) -> Tensor:
    """Return `layer(hidden)`.

    If the output has one column, it is computed without the stride: oneDNN's bfloat16 kernels for AMX give
    wrong numbers and NaN there (torch 2.14.1 on Intel Xeon).
    """
    stride = layer.stride[1]
    if stride == 1 or hidden.shape[3] > stride:
        return layer(hidden)
    return F.conv2d(hidden, layer.weight, layer.bias, padding=layer.padding)[..., :1]


def _stack(inputs: int, filters: int, stride: int) -> nn.ModuleList:
    """Return five convolutions over three frames each, up to four of them strided along the frequencies."""
    layers = [nn.Conv2d(inputs, filters, (3, 9), stride=(1, stride), padding=(1, 4))]
    layers += [nn.Conv2d(filters, filters, (3, 9), stride=(1, 2), padding=(1, 4)) for _ in range(3)]
    layers += [nn.Conv2d(filters, filters, (3, 3), padding=(1, 1))]
    return nn.ModuleList(weight_norm(layer) for layer in layers)

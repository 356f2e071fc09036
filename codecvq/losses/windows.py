"""`WindowsLoss`: base class of losses on spectra under several windows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from codecvq.errors import OptionError
from codecvq.losses.interface import AudioLoss
from codecvq.networks.fourier import power_spectra


def checked_windows(loss: str, windows: Sequence[int]) -> tuple[int, ...]:
    """Validate the windows of a loss. Raises OptionError unless all are even numbers >= 4."""
    if not windows or any(size < 4 or size % 2 for size in windows):
        raise OptionError(
            f"losses.{loss}.windows is {list(windows)}; at least one window is needed, and all must be even "
            "numbers of samples >= 4."
        )
    return tuple(windows)


class WindowsLoss(AudioLoss):
    """Base class of losses on spectra under several Hann windows; the hop is a quarter of each."""

    name = ""  # of the loss in a recipe

    def __init__(self, windows: Sequence[int]) -> None:
        super().__init__()
        self.windows = checked_windows(self.name, windows)
        for size in windows:
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)

    def distance(self, decoded: Tensor, reference: Tensor) -> Tensor:
        """Return the 0-d loss of audio `[B, C, S]` against `[B, C, S]`, mean over items and windows."""
        with torch.autocast(decoded.device.type, enabled=False):
            decoded, reference = at_least_float32(decoded), at_least_float32(reference)
            return torch.stack(
                [self.item_losses(decoded, reference, size).mean() for size in self.windows]
            ).mean()

    def item_losses(self, decoded: Tensor, reference: Tensor, size: int) -> Tensor:
        """Return losses `[B]` of audio `[B, C, S]` against `[B, C, S]` under the window of `size` samples."""
        raise NotImplementedError(
            f"{type(self).__name__} must define item_losses(decoded, reference, size) -> [B]"
        )

    def powers(self, wav: Tensor, size: int) -> Tensor:
        """Return power spectra of windowed frames: `[B, C, S]` -> `[B, C, frames, size/2 + 1]`."""
        frames = F.pad(wav, (size // 2, size // 2)).unfold(2, size, size // 4)
        return power_spectra(frames * self.get_buffer(f"window_{size}"))


def at_least_float32(wav: Tensor) -> Tensor:
    """Convert audio to float32; float64 stays float64."""
    return wav if wav.dtype == torch.float64 else wav.float()

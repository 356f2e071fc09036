"""A loss on log-mel magnitudes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from codecvq.errors import OptionError
from codecvq.losses.interface import AudioLoss
from codecvq.losses.windows import checked_windows
from codecvq.networks.fourier import mel_filters, power_spectra

FLOOR = 1e-5  # of magnitudes before the root, so that it is smooth at 0


class MelLoss(AudioLoss):
    """Mean absolute difference of log10 mel magnitudes over several windows.

    Follows arXiv:2306.06546 §3.4, but without the linear term, and with the mean over the windows in place of
    the sum.

    Args:
        windows: window sizes in samples; the hop is a quarter of each.
        bands: number of mel bands for each window. A band without any frequency of its window is excluded,
            because it would be constant.
        floor: magnitudes (of windowed sums) below it count as equal. The default is far below the resolution
            of 16 bits. For recordings with digital silence or band limits, training is faster with 1e-2,
            about -85 dB: inaudible levels are then not learned.
    """

    def __init__(
        self,
        sample_rate: int,
        windows: Sequence[int] = (128, 256, 512, 1024, 2048),
        bands: Sequence[int] = (10, 20, 40, 80, 160),
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        self.windows, self.floor = checked_windows("mel", windows), floor
        if len(windows) != len(bands):
            raise OptionError(
                f"losses.mel.windows has {len(windows)} entries and bands {len(bands)}; needed is one "
                "number of bands for each window."
            )
        if min(bands) < 1:
            raise OptionError(f"losses.mel.bands is {list(bands)}; each must be at least 1.")
        if not 0 < floor < math.inf:
            raise OptionError(f"losses.mel.floor is {floor}; it must be above 0.")
        for size, count in zip(windows, bands, strict=True):
            mel = mel_filters(sample_rate, size, count)
            self.register_buffer(f"mel_{size}", mel[:, mel.sum(dim=0) > 0].contiguous(), persistent=False)
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)

    def distance(self, decoded: Tensor, reference: Tensor) -> Tensor:
        """Return the 0-d loss of audio `[B, C, S]` against `[B, C, S]`, in float32 without autocast."""
        with torch.autocast(decoded.device.type, enabled=False):
            signals, targets = decoded.float().flatten(0, 1), reference.float().flatten(0, 1)  # [B·C, S]
            losses = []
            for size in self.windows:
                with torch.no_grad():
                    target = self._log_mel(targets, size)
                losses.append(F.l1_loss(self._log_mel(signals, size), target))
            return torch.stack(losses).mean()

    def _log_mel(self, wav: Tensor, size: int) -> Tensor:
        frames = F.pad(wav, (size // 2, size // 2)).unfold(1, size, size // 4)  # [B·C, frames, W]
        power = power_spectra(frames * self.get_buffer(f"window_{size}"))
        magnitudes = (power + FLOOR**2).sqrt()  # smooth at 0
        return (magnitudes @ self.get_buffer(f"mel_{size}")).clamp(min=self.floor).log10()

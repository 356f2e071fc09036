"""The loss of log-mel magnitudes."""

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
    """Mean absolute difference of decadic log-mel magnitudes over several windows (after arXiv:2306.06546
    §3.4; without its linear term, and the mean over the windows, not their sum).

    Args: `windows` in samples, hop a quarter of each; `bands` for each window; `floor` below which
    magnitudes, those of windowed sums, count as equal. The usual floor lies far below what 16 bits hold.
    Recordings with digital silence or cut bands teach faster with 1e-2, which is about -85 dB: what is below
    is neither heard nor learned. A band that holds no frequency of its window is left out, as it would be
    constant.
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
                f"losses.mel.windows has {len(windows)} entries and bands {len(bands)}; needed is a number "
                "of bands for each window."
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
        """0-d loss of audio `[B, C, S]` against `[B, C, S]`, in float32 whatever autocast says."""
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

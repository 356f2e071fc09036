"""The multi-scale STFT discriminator (arXiv:2210.13438 §3.4) of the `encodec` package."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from codecvq.errors import OptionError
from codecvq.networks.encodec_norm import parametrized_norm
from codecvq.networks.interface import Discriminator, DiscriminatorOutput


def build_ms_stft(
    *,
    sample_rate: int,
    channels: int = 1,
    filters: int = 32,
    windows: Sequence[int] = (2048, 1024, 512, 256, 128),
    hop_ratio: int = 4,
) -> Discriminator:
    """Build one network per window (samples, hop `window // hop_ratio`), with `filters` channels each."""
    del sample_rate
    if not windows or min(windows) < 16 or filters < 1 or hop_ratio < 1:
        raise OptionError(
            f"ms_stft: windows {list(windows)}, filters {filters}, hop_ratio {hop_ratio}: needed are windows "
            "of at least 16 samples, and positive numbers."
        )
    return MultiScaleStft(channels, filters, windows, hop_ratio)


class MultiScaleStft(Discriminator):
    """EnCodec's discriminator as a `Discriminator`."""

    def __init__(self, channels: int, filters: int, windows: Sequence[int], hop_ratio: int) -> None:
        super().__init__(min_samples=max(windows))
        from encodec.msstftd import DiscriminatorSTFT

        with parametrized_norm():
            self.scales = nn.ModuleList(
                DiscriminatorSTFT(
                    filters, channels, n_fft=size, win_length=size, hop_length=size // hop_ratio
                )
                for size in windows
            )

    def discriminate(self, wav: Tensor) -> list[DiscriminatorOutput]:
        """Return one output per window for audio `[B, C, S]`, scores `[B, 1, frames, bins]`."""
        return [
            DiscriminatorOutput(scores, tuple(features)) for scores, features in (s(wav) for s in self.scales)
        ]

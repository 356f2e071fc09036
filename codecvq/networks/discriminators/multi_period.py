"""The multi-period discriminator (arXiv:2010.05646 §2.3), on the signal folded at several periods.

The folded signal is a matrix whose columns contain samples one period apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from codecvq.errors import OptionError
from codecvq.networks.interface import Discriminator, DiscriminatorOutput

KERNEL, STRIDE, SLOPE = 5, 3, 0.1


def build_multi_period(
    *,
    sample_rate: int,
    channels: int = 1,
    periods: Sequence[int] = (2, 3, 5, 7, 11),
    filters: int = 32,
    max_filters: int = 1024,
) -> Discriminator:
    """Build one network per period (samples).

    The first layer has `filters` channels, each of the next three has four times as many, up to
    `max_filters`. The paper uses 32 and 1024, which gives 41 million weights.
    """
    del sample_rate
    if not periods or min(periods) < 1 or not 0 < filters <= max_filters:
        raise OptionError(
            f"multi_period: periods {list(periods)}, filters {filters}, max_filters {max_filters}: needed "
            "are periods from 1, and 0 < filters <= max_filters."
        )
    return MultiPeriod(channels, periods, filters, max_filters)


class MultiPeriod(Discriminator):
    """One `Period` network per period."""

    def __init__(self, channels: int, periods: Sequence[int], filters: int, max_filters: int) -> None:
        super().__init__(min_samples=max(periods))
        widths = [channels, *(min(filters * 4**n, max_filters) for n in range(4))]
        self.periods = nn.ModuleList(Period(period, widths) for period in periods)

    def discriminate(self, wav: Tensor) -> list[DiscriminatorOutput]:
        """Return one output per period for audio `[B, C, S]`, scores `[B, 1, rows, period]`."""
        return [period(wav) for period in self.periods]


class Period(nn.Module):
    """Convolutions along the columns of the folded signal."""

    def __init__(self, period: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.period = period
        self.layers = nn.ModuleList(_column(a, b, STRIDE) for a, b in pairwise(widths))
        self.layers.append(_column(widths[-1], widths[-1], 1))
        self.score = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wav: Tensor) -> DiscriminatorOutput:
        """Compute features and scores: `[B, C, S]` -> `[B, 1, rows, period]`.

        The end of the audio is padded by reflection.
        """
        missing = -wav.shape[2] % self.period
        padded = F.pad(wav, (0, missing), mode="reflect") if missing else wav
        hidden = rearrange(padded, "b c (t p) -> b c t p", p=self.period)
        features = []
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), SLOPE)
            features.append(hidden)
        return DiscriminatorOutput(self.score(hidden), tuple(features))


def _column(width_in: int, width_out: int, stride: int) -> nn.Module:
    return weight_norm(
        nn.Conv2d(width_in, width_out, (KERNEL, 1), stride=(stride, 1), padding=(KERNEL // 2, 0))
    )

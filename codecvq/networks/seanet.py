"""SEANet from the `encodec` package (arXiv:2210.13438): strided convolutions at the sample rate.

Its normalisations over time are refused: with them a frame hangs on all others, so that neither streaming nor
a padded batch gives the codes of the whole file alone. Padding is with zeros for the same reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from codecvq.errors import OptionError
from codecvq.networks.interface import Network

NORMS = ("none", "weight_norm")


def build_seanet(
    *,
    sample_rate: int,
    channels: int = 1,
    dim: int = 64,
    filters: int = 16,
    ratios: Sequence[int] = (8, 5, 4, 2),
    residual_layers: int = 1,
    lstm_layers: int = 0,
    causal: bool = False,
    norm: str = "weight_norm",
) -> Network:
    """A SEANet pair; the hop is the product of `ratios`, the first of which is the decoder's first and the
    encoder's last.
    """
    if norm not in NORMS:
        raise OptionError(
            f"seanet: norm is {norm!r}; allowed are {' and '.join(NORMS)}: a normalisation over time makes "
            "every frame hang on "
            f"all others, so padded batches and streams would give other codes"
        )
    if not ratios or min(ratios) < 1:
        raise OptionError(
            f"seanet: ratios is {list(ratios)!r}; needed is a list of whole numbers, as [8, 5, 4, 2]"
        )
    options: dict[str, Any] = {
        "channels": channels,
        "dimension": dim,
        "n_filters": filters,
        "n_residual_layers": residual_layers,
        "ratios": list(ratios),
        "lstm": lstm_layers,
        "causal": causal,
        "norm": norm,
        "pad_mode": "constant",
    }
    encoder, decoder = _encodec_pair(options)
    hop_length = math.prod(ratios)
    return Network(ItemByItem(encoder, hop_length, 1), ItemByItem(decoder, 1, hop_length), dim, hop_length)


def _encodec_pair(options: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """encodec's modules, with today's weight_norm: the old one warns and cannot be copied."""
    import encodec.modules.conv as conv
    from encodec.modules import SEANetDecoder, SEANetEncoder

    old = conv.weight_norm
    conv.weight_norm = torch.nn.utils.parametrizations.weight_norm
    try:
        return SEANetEncoder(**options), SEANetDecoder(**options)
    finally:
        conv.weight_norm = old


class ItemByItem(nn.Module):
    """A convolutional module that runs each item of a padded batch by itself, since its inner layers see what
    stands behind an end.
    """

    def __init__(self, module: nn.Module, samples_in: int, samples_out: int) -> None:
        super().__init__()
        self.module = module
        self.samples_in, self.samples_out = samples_in, samples_out  # per frame

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B, X, frames * samples_in]`, mask `[B, frames]` -> `[B, Y, frames * samples_out]`, zero at
        padding.
        """
        if mask is None or bool(mask.all()):
            return self.module(signal)
        frames = mask.shape[1]
        items = []
        for item, real in zip(signal, mask, strict=True):
            length = int(real.sum())  # padding is at the end
            out = self(item[None, :, : length * self.samples_in])
            items.append(nn.functional.pad(out, (0, (frames - length) * self.samples_out)))
        return torch.cat(items)

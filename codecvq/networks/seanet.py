"""SEANet of the `encodec` package (arXiv:2210.13438): strided convolutions at the sample rate.

Normalizations over time are rejected. With them each frame depends on all others, so streaming and padded
batches would give other codes than the whole file alone. Convolutions pad with zeros for the same reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from codecvq.api.reach import Reach
from codecvq.errors import OptionError
from codecvq.networks.encodec_norm import parametrized_norm
from codecvq.networks.interface import Network
from codecvq.networks.presets import resolve_size
from codecvq.streaming import StreamingModule

NORMS = ("none", "weight_norm")


@dataclass(frozen=True, kw_only=True)
class Size:
    """Size of a SEANet.

    Channels of the first layer (doubled with each stride), residual layers before each stride, and LSTM
    layers at the frame rate.
    """

    filters: int
    residual_layers: int
    lstm_layers: int


PRESETS = {
    "tiny": Size(filters=8, residual_layers=1, lstm_layers=0),
    "small": Size(filters=16, residual_layers=1, lstm_layers=0),
    "base": Size(filters=32, residual_layers=1, lstm_layers=2),  # EnCodec's
    "large": Size(filters=64, residual_layers=3, lstm_layers=0),
}


def build_seanet(
    *,
    sample_rate: int,
    channels: int = 1,
    dim: int = 64,
    ratios: Sequence[int] = (8, 5, 4, 2),
    preset: str = "small",
    filters: int | None = None,
    residual_layers: int | None = None,
    lstm_layers: int | None = None,
    causal: bool = False,
    norm: str = "weight_norm",
) -> Network:
    """Build a SEANet encoder and decoder.

    The hop length is the product of `ratios`, in the order of the decoder; the encoder uses them in reverse.
    Numbers that are given override those of `preset`.
    """
    size = resolve_size(
        "seanet",
        PRESETS,
        preset,
        filters=filters,
        residual_layers=residual_layers,
        lstm_layers=lstm_layers,
    )
    if norm not in NORMS:
        raise OptionError(
            f"seanet: norm is {norm!r}; allowed are {' and '.join(NORMS)}. A normalization over time makes "
            "every frame depend on all others, so padded batches and streams would give other codes."
        )
    if not ratios or min(ratios) < 1:
        raise OptionError(
            f"seanet: ratios is {list(ratios)!r}; needed is a list of whole numbers, for example [8, 5, 4, 2]"
        )
    options: dict[str, Any] = {
        "channels": channels,
        "dimension": dim,
        "n_filters": size.filters,
        "n_residual_layers": size.residual_layers,
        "ratios": list(ratios),
        "lstm": size.lstm_layers,
        "causal": causal,
        "norm": norm,
        "pad_mode": "constant",
    }
    encoder, decoder = _encodec_pair(options)
    hop_length = math.prod(ratios)
    return Network(PerItem(encoder, hop_length, 1), PerItem(decoder, 1, hop_length), dim, hop_length)


def _encodec_pair(options: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    from encodec.modules import SEANetDecoder, SEANetEncoder

    with parametrized_norm():
        return SEANetEncoder(**options), SEANetDecoder(**options)


class PerItem(nn.Module):
    """Runs a convolutional module on each item of a padded batch separately.

    Its hidden layers would otherwise depend on padding after the end of an item.
    """

    def __init__(self, module: nn.Module, samples_in: int, samples_out: int) -> None:
        super().__init__()
        self.module = module
        self.samples_in, self.samples_out = samples_in, samples_out  # per frame
        self.reach = _reach(module, samples_in, samples_out)

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run the module on each item; the output is zero at padding.

        Shapes: `[B, X, frames * samples_in]`, mask `[B, frames]` -> `[B, Y, frames * samples_out]`.
        """
        if mask is None or bool(mask.all()):
            return self.module(signal)
        frames = mask.shape[1]
        items = []
        for item, valid in zip(signal, mask, strict=True):
            length = int(valid.sum())  # padding is at the end
            out = self(item[None, :, : length * self.samples_in])
            items.append(nn.functional.pad(out, (0, (frames - length) * self.samples_out)))
        return torch.cat(items)

    def as_stream(self) -> StreamingModule:
        """Return a stream with exact state."""
        from codecvq.networks.seanet_streaming import seanet_stream

        layers: nn.Sequential = self.module.model  # type: ignore[assignment]
        return seanet_stream(layers)


def _reach(module: nn.Module, samples_in: int, samples_out: int) -> Reach:
    """Return the receptive field of a stack of encodec's convolutions.

    It computes the interval of inputs on which the outputs 0 … samples_out - 1 depend, layer by layer from
    the last to the first. The result is relative to the inputs 0 … samples_in - 1 of the same frame.

    Output j of a convolution with kernel k, stride s, dilation d and l zeros in front depends on the inputs
    js - l … js - l + (k - 1)d. Output j of a transposed convolution that drops its first l outputs depends on
    the inputs m with 0 ≤ j + l - ms ≤ k - 1. Skip connections depend on fewer inputs than the layers that
    they bypass.
    """
    first, last = 0, samples_out - 1
    for layer in reversed(list(module.modules())):
        if type(layer).__name__ == "SConv1d":
            conv: Any = layer.conv.conv  # type: ignore[union-attr]
            kernel, stride, dilation = conv.kernel_size[0], conv.stride[0], conv.dilation[0]
            padding = (kernel - 1) * dilation - (stride - 1)
            left = padding if layer.causal else padding - padding // 2
            first, last = first * stride - left, last * stride - left + (kernel - 1) * dilation
        elif type(layer).__name__ == "SConvTranspose1d":
            conv = layer.convtr.convtr  # type: ignore[union-attr]
            kernel, stride = conv.kernel_size[0], conv.stride[0]
            padding = kernel - stride
            left = 0 if layer.causal else padding - padding // 2
            first, last = -((kernel - 1 - first - left) // stride), (last + left) // stride
    recurrent = any(isinstance(layer, nn.LSTM) for layer in module.modules())
    return Reach(None if recurrent else -first, last - (samples_in - 1))

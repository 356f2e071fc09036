"""Cost of a codec: parameters and multiply-adds per second of audio, for each part.

The count includes matrix products and convolutions, as torch runs them in eval mode, and Fourier transforms.
As is usual, it excludes element-wise operations and table lookups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from codecvq.networks.interface import Network
from codecvq.quantizer import Quantizer

SECONDS = 2  # duration of the audio that is run; longer audio reduces the influence of edges


@dataclass(frozen=True)
class PartCost:
    """Cost of one part of a codec."""

    parameters: int  # number of parameters learned by gradient
    multiply_adds_per_s: float  # per second of audio


@dataclass(frozen=True)
class Cost:
    """Cost of a codec by parts. The quantizer's multiply-adds are those of encoding and decoding together."""

    encoder: PartCost
    quantizer: PartCost
    decoder: PartCost

    def by_part(self) -> dict[str, dict[str, float]]:
        """Return `{part: {parameters, multiply_adds_per_s}}`."""
        return asdict(self)


@torch.no_grad()
def cost_of(network: Network, quantizer: Quantizer, sample_rate: int, channels: int = 1) -> Cost:
    """Return the cost of a codec, counted on noise. Training modes are restored."""
    parts = nn.ModuleList([network.encoder, quantizer, network.decoder])
    training = [part.training for part in parts]
    parts.eval()
    frames = math.ceil(SECONDS * sample_rate / network.hop_length)
    seconds = frames * network.hop_length / sample_rate
    device = next((parameter.device for parameter in parts.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    wav = 0.1 * torch.randn(1, channels, frames * network.hop_length, generator=generator)
    latents, encoding = multiply_adds(lambda: network.encoder(wav.to(device)))
    codes, choosing = multiply_adds(lambda: quantizer.encode(latents))
    values, looking_up = multiply_adds(lambda: quantizer.decode(codes))
    _, decoding = multiply_adds(lambda: network.decoder(values))
    for part, mode in zip(parts, training, strict=True):
        part.train(mode)
    return Cost(
        PartCost(_parameters(network.encoder), encoding / seconds),
        PartCost(_parameters(quantizer), (choosing + looking_up) / seconds),
        PartCost(_parameters(network.decoder), decoding / seconds),
    )


def multiply_adds(call: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """Run `call`, and return its result and the number of multiply-adds."""
    from torch.utils.flop_counter import FlopCounterMode

    uncounted = {
        torch.ops.aten._fft_r2c: _real_transform,
        torch.ops.aten._fft_c2r: _real_transform,
        torch.ops.aten.mkldnn_rnn_layer: _recurrent_layer,
    }
    with FlopCounterMode(display=False, custom_mapping=uncounted) as counter:
        result = call()
    return result, counter.get_total_flops() / 2


def _real_transform(
    input_shape: Sequence[int], dims: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any
) -> int:
    """Return the operations of real FFTs of n points, forward or inverse: 5/2 n log2 n each."""
    points = max(input_shape[dims[-1]], out_shape[dims[-1]])  # the real side has more points
    transforms = math.prod(input_shape) // input_shape[dims[-1]]
    return round(2.5 * points * math.log2(points)) * transforms


def _recurrent_layer(
    input_shape: Sequence[int],
    input_weight: Sequence[int],
    recurrent_weight: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """Return the operations of an LSTM layer of oneDNN for an input `[T, B, X]`."""
    return 2 * input_shape[0] * input_shape[1] * (math.prod(input_weight) + math.prod(recurrent_weight))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

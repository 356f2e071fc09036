"""What a codec costs: parameters, and multiply-adds for a second of audio, by part.

Counted are matrix products and convolutions, as torch runs them in evaluation, and Fourier transforms. What
works element by element is not, as is usual; nor are look-ups in tables.
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

SECONDS = 2  # of audio that is run: edges count for less than in one


@dataclass(frozen=True)
class PartCost:
    """A part of a codec."""

    parameters: int  # that are learned by gradients
    multiply_adds_per_s: float  # for a second of audio


@dataclass(frozen=True)
class Cost:
    """A codec by parts. The quantizer's multiply-adds are those of both its directions."""

    encoder: PartCost
    quantizer: PartCost
    decoder: PartCost

    def by_part(self) -> dict[str, dict[str, float]]:
        """`{part: {parameters, multiply_adds_per_s}}`."""
        return asdict(self)


@torch.no_grad()
def cost_of(network: Network, quantizer: Quantizer, sample_rate: int, channels: int = 1) -> Cost:
    """What a codec of these parts costs, counted on noise. Their modes are put back."""
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
    """What `call` gives, and how many multiply-adds it took."""
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
    """Operations of real transforms of n points, one way or the other: 5/2 n log2 n each, the usual count."""
    points = max(input_shape[dims[-1]], out_shape[dims[-1]])  # the real side has the more
    transforms = math.prod(input_shape) // input_shape[dims[-1]]
    return round(2.5 * points * math.log2(points)) * transforms


def _recurrent_layer(
    input_shape: Sequence[int],
    input_weight: Sequence[int],
    recurrent_weight: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """Operations of oneDNN's LSTM layer: `[T, B, X]`, and matrices for what comes in and for what was."""
    return 2 * input_shape[0] * input_shape[1] * (math.prod(input_weight) + math.prod(recurrent_weight))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

"""Streaming of SEANet with exact state, causal or not: each layer is a stream.

A convolution returns an output as soon as its inputs are complete. It caches inputs that later outputs need.
The weights are those at the time the stream is made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.streaming import (
    Chain,
    FramewiseModule,
    State,
    StreamingModule,
    append,
    number_of,
    state_of,
    tensor_of,
)


def seanet_stream(module: nn.Module) -> StreamingModule:
    """Return a stream for a module of encodec: convolutions, LSTMs, residual blocks, activations."""
    kind = type(module).__name__
    if kind == "SConv1d":
        return ConvStream(module)
    if kind == "SConvTranspose1d":
        return TransposedConvStream(module)
    if kind == "SLSTM":
        return LstmStream(module)
    if kind == "SEANetResnetBlock":
        return ResidualStream(module)
    if isinstance(module, nn.Sequential):
        return Chain([seanet_stream(layer) for layer in module])
    return FramewiseModule(module)


class ConvStream(StreamingModule):
    """A convolution of encodec: `[B, X, n]` -> `[B, Y, m]`."""

    def __init__(self, layer: Any) -> None:
        conv = layer.conv.conv
        self.weight, self.bias = conv.weight.detach(), conv.bias.detach()
        self.stride, self.dilation = conv.stride[0], conv.dilation[0]
        self.span = (conv.kernel_size[0] - 1) * self.dilation + 1  # inputs per output
        padding = self.span - self.stride
        self.right = 0 if layer.causal else padding // 2
        self.left = padding - self.right

    def start(self, device: torch.device) -> State:
        """Return the padding before the first input."""
        return {"input": torch.zeros(1, self.weight.shape[1], self.left, device=device)}

    def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Return the outputs whose inputs are complete."""
        signal = tensor_of(state, "input")
        signal = append(signal, block)
        if last:
            signal = F.pad(signal, (0, self.right))
        count = (signal.shape[2] - self.span) // self.stride + 1
        if count < 1:
            return signal[:, :, :0], {"input": signal}
        used = signal[:, :, : (count - 1) * self.stride + self.span]
        output = F.conv1d(used, self.weight, self.bias, self.stride, dilation=self.dilation)
        return output, {"input": signal[:, :, count * self.stride :]}


class TransposedConvStream(StreamingModule):
    """A transposed convolution of encodec: `[B, X, n]` -> `[B, Y, m]`.

    The state holds the sums of outputs that later inputs add to, and the number of outputs to discard.
    """

    def __init__(self, layer: Any) -> None:
        conv = layer.convtr.convtr
        self.weight, self.bias = conv.weight.detach(), conv.bias.detach()[:, None]
        self.stride, kernel = conv.stride[0], conv.kernel_size[0]
        self.overlap = kernel - self.stride
        self.left = 0 if layer.causal else self.overlap - self.overlap // 2

    def start(self, device: torch.device) -> State:
        """Return zeros."""
        return {"sums": torch.zeros(1, self.weight.shape[1], self.overlap, device=device), "skip": self.left}

    def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Return the outputs to which no later input adds."""
        sums, skip = tensor_of(state, "sums"), number_of(state, "skip")
        if block.shape[2]:
            output = F.conv_transpose1d(block, self.weight, stride=self.stride)
            output = output + F.pad(sums, (0, output.shape[2] - self.overlap))
        else:
            output = sums
        end = output.shape[2] - self.overlap
        done = output[:, :, : end + self.left if last else end]
        skipped = min(skip, done.shape[2])
        return done[:, :, skipped:] + self.bias, {"sums": output[:, :, end:], "skip": skip - skipped}


class LstmStream(StreamingModule):
    """An LSTM of encodec: `[B, X, n]` -> `[B, X, n]`."""

    def __init__(self, layer: Any) -> None:
        self.lstm, self.skip = layer.lstm, layer.skip

    def start(self, device: torch.device) -> State:
        """Return zeros."""
        zeros = torch.zeros(1, self.lstm.num_layers, self.lstm.hidden_size, device=device)
        return {"hidden": zeros, "cell": zeros}

    def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Continue the recurrence."""
        hidden, cell = tensor_of(state, "hidden"), tensor_of(state, "cell")
        if not block.shape[2]:
            return block, state
        steps = block.permute(2, 0, 1)
        before = hidden.transpose(0, 1).contiguous(), cell.transpose(0, 1).contiguous()
        output, (hidden, cell) = self.lstm(steps, before)
        output = output + steps if self.skip else output
        return output.permute(1, 2, 0), {"hidden": hidden.transpose(0, 1), "cell": cell.transpose(0, 1)}


class ResidualStream(StreamingModule):
    """A residual block of encodec: `[B, X, n]` -> `[B, X, m]`.

    The state holds the inputs that wait for the output of its convolutions.
    """

    def __init__(self, block: Any) -> None:
        self.block, self.shortcut = seanet_stream(block.block), seanet_stream(block.shortcut)

    def start(self, device: torch.device) -> State:
        """Return the states of both branches."""
        return {
            "block": self.block.start(device),
            "shortcut": self.shortcut.start(device),
            "waiting": torch.zeros(1, 0, 0, device=device),
        }

    def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Add both branches where both are complete."""
        inner, shortcut, waiting = (
            state_of(state, "block"),
            state_of(state, "shortcut"),
            tensor_of(state, "waiting"),
        )
        bypass, shortcut = self.shortcut.step(block, shortcut, last)
        output, inner = self.block.step(block, inner, last)
        waiting = append(waiting, bypass)
        count = output.shape[2]
        if count:
            output = output + waiting[:, :, :count]
        return output, {"block": inner, "shortcut": shortcut, "waiting": waiting[:, :, count:]}

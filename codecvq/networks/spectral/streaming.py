"""Streaming of causal spectral networks with exact state: no frame is computed twice.

Letters in shapes: F features of a frame, X hidden channels, n frames of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from codecvq.networks.spectral.backbone import KERNEL, Backbone, ConvNeXtBlock
from codecvq.networks.spectral.framing import Crossfade
from codecvq.networks.spectral.parts import FrontEnd
from codecvq.networks.spectral.predicted import PredictedSpectra
from codecvq.streaming import MIN_ROWS, State, StreamingModule, append, state_of, tensor_of


class FrontEndStream(StreamingModule):
    """Features of a front end that can process padded audio: `[B, 1, n samples]` -> `[B, F, n frames]`."""

    def __init__(self, front: FrontEnd, hop_length: int) -> None:
        self.front, self.hop_length = front, hop_length

    def start(self, device: torch.device) -> State:
        """Return the padding before the first sample."""
        return {"wav": torch.zeros(1, 1, self.front.before, device=device)}

    def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Return the features of all frames whose window is complete."""
        wav = tensor_of(state, "wav")
        wav = append(wav, block)
        if last:
            wav = F.pad(wav, (0, self.front.after))
        frames = (wav.shape[2] - self.front.before - self.front.after) // self.hop_length
        if frames < 1:
            return wav[:, :, :0], {"wav": wav}
        samples = frames * self.hop_length
        features = self.front.of_padded(wav[:, :, : self.front.before + samples + self.front.after])
        return features.transpose(1, 2), {"wav": wav[:, :, samples:]}


class BackboneStream(StreamingModule):
    """A causal `Backbone`: `[B, F, n]` -> `[B, X, n]`.

    The state holds the last inputs of each convolution.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.blocks = [block for block in backbone.blocks if isinstance(block, ConvNeXtBlock)]
        self.convolutions = [backbone.embed, *(block.depthwise for block in self.blocks)]

    def start(self, device: torch.device) -> State:
        """Return zeros, the input of convolutions before the first frame."""
        channels = [conv.in_channels for conv in self.convolutions]
        return {str(n): torch.zeros(1, KERNEL - 1, each, device=device) for n, each in enumerate(channels)}

    def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Apply the backbone to new frames."""
        frames = block.shape[2]
        if not frames:
            return block, state
        backbone = self.backbone
        new_state: State = {}

        def convolve(n: int, hidden: Tensor) -> Tensor:
            cache = tensor_of(state, str(n))
            extended = torch.cat([cache, hidden], dim=1)
            new_state[str(n)] = extended[:, frames : frames + KERNEL - 1]
            return self.convolutions[n].valid(extended)

        hidden = F.pad(block.transpose(1, 2), (0, 0, 0, max(0, MIN_ROWS - frames)))
        hidden = backbone.norm_in(convolve(0, hidden))
        for n, layer in enumerate(self.blocks, start=1):
            hidden = layer.mix(hidden, convolve(n, hidden))
        return backbone.norm_out(hidden)[:, :frames].transpose(1, 2), new_state


class JoinedStream(StreamingModule):
    """Latents with the values of a writer: audio `[B, 1, n samples]` -> `[B, D, n frames]`.

    Args:
        latents: Stream of audio to latents `[B, D, m]`.
        values: Stream of audio to values `[B, X, m]`.
        places: Latent channels of the values, `[X]`.
    """

    def __init__(self, latents: StreamingModule, values: StreamingModule, places: Tensor) -> None:
        self.latents, self.values, self.places = latents, values, places

    def start(self, device: torch.device) -> State:
        """Return the states of both streams, and their outputs that wait for the other one."""
        nothing = torch.zeros(1, 0, 0, device=device)
        return {
            "latents": self.latents.start(device),
            "values": self.values.start(device),
            "waiting_latents": nothing,
            "waiting_values": nothing,
        }

    def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Return the latents of all frames whose values are known."""
        new_state: State = {}
        outputs = []
        for name, stream in (("latents", self.latents), ("values", self.values)):
            own, waiting = state_of(state, name), tensor_of(state, f"waiting_{name}")
            output, new_state[name] = stream.step(block, own, last)
            outputs.append(append(waiting, output))
        latents, values = outputs
        count = min(latents.shape[2], values.shape[2])
        new_state["waiting_latents"] = latents[:, :, count:]
        new_state["waiting_values"] = values[:, :, count:]
        if not count:
            return latents[:, :, :0], new_state
        values = values[:, :, :count].to(latents.dtype)
        return latents[:, :, :count].index_copy(1, self.places, values), new_state


class CrossfadeStream(StreamingModule):
    """Predicted spectra to audio with a `Crossfade`: `[B, X, n]` -> `[B, 1, n * H]`.

    The state holds the end of the last frame's signal.
    """

    def __init__(self, head: PredictedSpectra, framing: Crossfade) -> None:
        self.head, self.framing = head, framing

    def start(self, device: torch.device) -> State:
        """Return silence."""
        return {"tail": torch.zeros(1, 1, self.framing.overlap, device=device)}

    def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Synthesize new frames."""
        frames, tail = block.shape[2], tensor_of(state, "tail")
        if not frames:
            return block, state
        hidden = F.pad(block.transpose(1, 2), (0, 0, 0, max(0, MIN_ROWS - frames)))
        wav, tail = self.framing.continue_from(tail, self.head.spectra(hidden)[:, :frames])
        return wav, {"tail": tail}

"""Streaming of the causal source-filter model with exact state: the written pitch, and the decoder."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from codecvq.networks.voice.causal_decoder import CausalSourceFilterDecoder, padded_rows
from codecvq.networks.voice.causal_pitch_writer import CausalPitchWriter
from codecvq.streaming import State, StreamingModule, append


class PitchStream(StreamingModule):
    """Audio `[B, 1, n samples]` to the values `[B, 3, n frames]` that a `CausalPitchWriter` writes."""

    def __init__(self, writer: CausalPitchWriter) -> None:
        self.writer = writer

    def start(self, device: torch.device) -> State:
        """Return the padding before the first sample, and the state of the writer."""
        wav = torch.zeros(1, 1, self.writer.before, device=device)
        return {"wav": wav, "pitch": self.writer.start(device)}

    def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Return the values of all frames whose windows are complete."""
        writer, wav, pitch = self.writer, state["wav"], state["pitch"]
        assert isinstance(wav, Tensor)
        assert isinstance(pitch, dict)
        wav = append(wav, block)
        if last:
            wav = F.pad(wav, (0, writer.after))
        frames = (wav.shape[2] - writer.before - writer.after) // writer.hop_length
        if frames < 1:
            return wav[:, :, :0], {"wav": wav, "pitch": pitch}
        samples = frames * writer.hop_length
        values, pitch = writer.step(wav[:, 0, : writer.before + samples + writer.after], pitch)
        return values.transpose(1, 2), {"wav": wav[:, :, samples:], "pitch": pitch}


class SourceFilterStream(StreamingModule):
    """Latents `[B, D, n]` to audio `[B, 1, n * H]` by a `CausalSourceFilterDecoder`."""

    def __init__(self, decoder: CausalSourceFilterDecoder, backbone: StreamingModule) -> None:
        self.decoder, self.backbone = decoder, backbone

    def start(self, device: torch.device) -> State:
        """Return the last coded pitch, and the states of backbone and synthesis."""
        return {
            "knot": torch.zeros(1, device=device),
            "backbone": self.backbone.start(device),
            "synthesis": self.decoder.start(device),
        }

    def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Decode new frames."""
        if not block.shape[2]:
            return block, state
        decoder, frames = self.decoder, block.shape[2] * self.decoder.upsampling
        knot, backbone, synthesis = state["knot"], state["backbone"], state["synthesis"]
        assert isinstance(knot, Tensor)
        assert isinstance(backbone, dict)
        assert isinstance(synthesis, dict)
        features, coded, knot = decoder.read(block.transpose(1, 2), knot)
        spread = decoder.spread_frames(padded_rows(features))[:, :frames]
        hidden, backbone = self.backbone.step(spread.transpose(1, 2), backbone, last)
        log_filters, pitch_output = decoder.project(padded_rows(hidden.transpose(1, 2)))
        output = decoder.output(log_filters[:, :frames], pitch_output[:, :frames], coded)
        wav, synthesis = decoder.synthesize(output, synthesis)
        return wav, {"knot": knot, "backbone": backbone, "synthesis": synthesis}

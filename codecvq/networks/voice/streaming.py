"""Streaming of source-filter models with exact state: the written pitch, and the decoders."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from codecvq.networks.voice.causal_decoder import CausalSourceFilterDecoder, padded_rows
from codecvq.networks.voice.causal_pitch_writer import CausalPitchWriter
from codecvq.networks.voice.decoder import SourceFilterDecoder
from codecvq.networks.voice.grid import hz_of
from codecvq.networks.voice.source import hold_last, interpolate, pulse_rates, pulses_at
from codecvq.streaming import State, StreamingModule, append, number_of, state_of, tensor_of


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
        writer, wav, pitch = self.writer, tensor_of(state, "wav"), state_of(state, "pitch")
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
        knot, backbone, synthesis = (
            tensor_of(state, "knot"),
            state_of(state, "backbone"),
            state_of(state, "synthesis"),
        )
        features, coded, knot = decoder.read(block.transpose(1, 2), knot)
        spread = decoder.spread_frames(padded_rows(features))[:, :frames]
        hidden, backbone = self.backbone.step(spread.transpose(1, 2), backbone, last)
        log_filters, pitch_output = decoder.project(padded_rows(hidden.transpose(1, 2)))
        output = decoder.output(log_filters[:, :frames], pitch_output[:, :frames], coded)
        wav, synthesis = decoder.synthesize(output, synthesis)
        return wav, {"knot": knot, "backbone": backbone, "synthesis": synthesis}


class HeldPitchStream(StreamingModule):
    """Adds the coded pitch to latents: `[B, D, n]` -> `[B, D + 2, n]`.

    The added channels are the position, which frames without a pitch hold from the last one, and whether the
    frame has a pitch. Without pitch channels, nothing is added.
    """

    def __init__(self, decoder: SourceFilterDecoder) -> None:
        self.decoder = decoder

    def start(self, device: torch.device) -> State:
        """Return no position."""
        return {"position": torch.zeros(1, 0, device=device)}

    def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Add the channels to new frames."""
        before = tensor_of(state, "position")
        coded = self.decoder.coded_pitch(block.transpose(1, 2)) if block.shape[2] else None
        if coded is None:
            return block, state
        position = torch.cat([before, coded.position], dim=1)
        present = F.pad(coded.present, (before.shape[1], 0), value=True)
        position = hold_last(position, present)[:, before.shape[1] :]
        added = torch.stack([position, coded.present.to(position.dtype)], dim=1)
        return torch.cat([block.float(), added], dim=1), {"position": position[:, -1:]}


class SignalStream(StreamingModule):
    """Adds the samples of the source and of the second noise to synthesis frames.

    `[B, Y, n]` -> `[B, Y + 2 * H, n]`; see `SourceFilterDecoder`. The state continues the phase. A frame
    waits for the next one, to which its pitch is interpolated.
    """

    def __init__(self, decoder: SourceFilterDecoder) -> None:
        self.decoder = decoder

    def start(self, device: torch.device) -> State:
        """Return the state before the first frame."""
        return {
            "frames": torch.zeros(1, 0, 0, device=device),  # the last frame with samples, and later ones
            "done": 0,  # how many of them have samples: 0 or 1
            "samples": 0,  # number of samples of earlier frames
            "cycles": torch.zeros(1, 1, dtype=torch.float64, device=device),  # number of periods in them
        }

    def step(self, block: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Return all frames whose next frame is known."""
        frames, cycles = tensor_of(state, "frames"), tensor_of(state, "cycles")
        done, samples = number_of(state, "done"), number_of(state, "samples")
        frames = append(frames, block)
        count = frames.shape[2] - done - (0 if last else 1)
        if count < 1:
            return frames[:, :, :0], {**state, "frames": frames}
        decoder, hop = self.decoder, self.decoder.framing.hop_length
        inner = slice(done * hop, (done + count) * hop)
        filters = 2 * decoder.framing.bins
        position, voiced = frames[:, filters], frames[:, filters + 1]
        rates = pulse_rates(hz_of(position.double()), hop, decoder.sample_rate)[:, inner]
        cycles = torch.cat([cycles, rates], dim=1).cumsum(dim=1)
        pulse = pulses_at(cycles[:, 1:], rates.float())
        signals = decoder.mix(pulse, interpolate(voiced, hop)[:, inner], samples)
        added = [each.view(len(each), count, hop).transpose(1, 2) for each in signals]
        output = frames[:, :, done : done + count]
        added = [each.expand(len(output), -1, -1) for each in added]
        return torch.cat([output, *added], dim=1), {
            "frames": frames[:, :, done + count - 1 :],
            "done": 1,
            "samples": samples + count * hop,
            "cycles": cycles[:, -1:],
        }

"""`CausalSourceFilterDecoder`: latents to speech by a source and learned filters, without lookahead.

It differs from `SourceFilterDecoder` in the windows. The window of a synthesis frame starts with the hop that
it completes (`AheadFraming`), so it covers audio after the codec frame, which the encoder has read in its
lookahead. The source of a window follows from the pitch up to its middle (`CausalSource`). The coded pitch
of a codec frame is that of its last synthesis frame; before it, the pitch is interpolated from that of the
previous codec frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from codecvq.api.reach import Reach
from codecvq.networks.interface import AudioWithLosses
from codecvq.networks.spectral.framing import AheadFraming
from codecvq.networks.spectral.synthesis import MakeBackbone, SynthesisFraming
from codecvq.networks.voice.causal_source import CausalSource, without_jumps
from codecvq.networks.voice.pitch import Pitch, PitchTracker
from codecvq.networks.voice.source import hold_last
from codecvq.networks.voice.source_filter import (
    SECOND_NOISE_START,
    CodedPitch,
    SourceFilter,
    VoiceOutput,
    filtered,
    noise_offset,
    voice_losses,
)
from codecvq.streaming import MIN_ROWS, State, StreamingModule, exact_stream, state_of, tensor_of


def padded_rows(frames: Tensor) -> Tensor:
    """Pad frames `[B, T, X]` to at least `MIN_ROWS`."""
    return F.pad(frames, (0, 0, 0, max(0, MIN_ROWS - frames.shape[1])))


class CausalSourceFilterDecoder(SourceFilter):
    """Latents `[B, D, T]` to audio `[B, 1, T * H]`, without future latents; see `SourceFilter`."""

    framing: AheadFraming

    def __init__(
        self,
        synthesis: SynthesisFraming,
        dim: int,
        backbone: MakeBackbone,
        tracker: PitchTracker,
        sample_rate: int,
        pitch_channels: Sequence[int] | None,
    ) -> None:
        super().__init__(synthesis, dim, backbone, tracker, sample_rate, pitch_channels)
        self.source = CausalSource(self.framing.window_length, self.framing.hop_length, sample_rate)
        self.reach = Reach(None, 0)  # the phase accumulates over all earlier frames

    def forward(
        self, latents: Tensor, mask: Tensor | None = None, target_wav: Tensor | None = None
    ) -> Tensor | AudioWithLosses:
        """Decode latents: `[B, D, T]`, mask `[B, T]` -> `[B, 1, T * H]`.

        With the recording `[B, 1, T * H]` as `target_wav`, returns losses, too.
        """
        # A stream pads its blocks, too. Other roundings of the pitch would change the phases of weak bins.
        frames = padded_rows(rearrange(latents, "b d t -> b t d"))
        if mask is not None:
            mask = F.pad(mask, (0, frames.shape[1] - mask.shape[1]))
        features, coded, _ = self.read(frames, frames.new_zeros(len(frames), dtype=torch.float32))
        output = self.predict(self.hidden(features, self.upsample_mask(mask)), coded)
        output = output.cut(latents.shape[2] * self.upsampling)
        start = noise_offset(latents) if self.training else 0
        with torch.autocast(latents.device.type, enabled=False):
            wav, _ = self.synthesize(output, self.start(latents.device), start)
            if target_wav is None:
                return wav
            mask = None if mask is None else self.upsample_mask(mask[:, : latents.shape[2]])
            return AudioWithLosses(wav, self._losses(output, self.tracker(target_wav, mask), mask))

    def as_stream(self) -> StreamingModule | None:
        """Return a stream with exact state if the backbone has one, else None."""
        from codecvq.networks.voice.streaming import SourceFilterStream

        backbone = exact_stream(self.backbone)
        return None if backbone is None else SourceFilterStream(self, backbone)

    def read(self, latents: Tensor, knot: Tensor) -> tuple[Tensor, CodedPitch | None, Tensor]:
        """Read latents `[B, T, D]` that follow a codec frame with the coded pitch `knot` `[B]`.

        Returns the input of the network `[B, T, F]`, the coded pitch of synthesis frames, and the last knot.
        """
        coded = self.coded_pitch(latents)
        if coded is None:
            return latents, None, knot
        knots = torch.cat([knot[:, None], coded.position], dim=1)
        knots = hold_last(knots, F.pad(coded.present, (1, 0), value=True))
        coded = coded._replace(position=knots[:, 1:])
        before = without_jumps(knots[:, :-1], coded.position)
        share = torch.arange(1, self.upsampling + 1, device=latents.device) / self.upsampling
        position = torch.lerp(before[..., None], coded.position[..., None], share).flatten(1)
        present = coded.present.repeat_interleave(self.upsampling, dim=1)
        return self.features(latents, coded), CodedPitch(position, present), knots[:, -1]

    def start(self, device: torch.device) -> State:
        """Return the state of the synthesis before the first frame, of one item."""
        overlap = self.framing.window_length - self.framing.hop_length
        return {
            "frames": torch.zeros(1, dtype=torch.int64, device=device),  # number of synthesis frames
            "source": self.source.start(device),
            "tail": torch.zeros(1, overlap, device=device),  # of the overlap-add
        }

    def synthesize(
        self, output: VoiceOutput, state: State, noise_start: Tensor | int = 0
    ) -> tuple[Tensor, State]:
        """Return audio `[B, 1, T * H]` of synthesis frames, and the state after them.

        Args:
            output: Prediction for the frames.
            state: State before the frames. Its tensors have B rows, or one row that applies to all items;
                the items then have the same noise.
            noise_start: Sample of the series of noise at which frame 0 starts.
        """
        first, source, tail = tensor_of(state, "frames"), state_of(state, "source"), tensor_of(state, "tail")
        frames = output.position.shape[1]
        with torch.no_grad():
            own_noise, second_noise = (
                self.source.noise_windows(frames, first, start)
                for start in (noise_start, noise_start + SECOND_NOISE_START)
            )
            windows, source = self.source.step(
                output.position, (output.voicing > 0).float(), own_noise, source
            )
            sources = [self.framing.spectra(each) for each in (windows, second_noise)]
        wav, tail = self.framing.overlap_add(filtered(sources, output.log_filters), first, tail)
        return wav, {"frames": first + frames, "source": source, "tail": tail}

    def _losses(self, output: VoiceOutput, pitch: Pitch, mask: Tensor | None) -> dict[str, Tensor]:
        """Return losses for the pitch of the recording.

        The middle of a window is some frames of the tracker after its hop, so the last windows have no pitch.
        """
        ahead = (self.framing.window_length // self.framing.hop_length - 1) // 2
        pitch = Pitch(pitch.position[:, ahead:], pitch.voiced[:, ahead:])
        mask = None if mask is None else mask[:, ahead:]
        return voice_losses(output.cut(pitch.position.shape[1]), pitch, mask)

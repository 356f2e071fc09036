"""`SourceFilterDecoder`: latents to speech by a source (pulses and noise) and learned filters.

A decoder that generates phases itself needs long training. Phases retrieved from a decoder's magnitudes
(`codecvq.networks.spectral.phase`) are consistent with these, but not with speech: at low bit rates
magnitudes are smooth where speech has harmonics, and a spectrogram without harmonics sounds like noise. The
phases of a source (`codecvq.networks.voice.source`) at the right pitch are consistent like those of speech,
and produce harmonics also with smooth magnitudes. This is the classical vocoder model (with networks:
arXiv:1904.12088), applied to spectra.

With pitch channels, the encoder writes the knots of lines that follow the pitch of the recording
(`codecvq.networks.voice.knots`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from codecvq.api.reach import Reach
from codecvq.networks.interface import AudioWithLosses
from codecvq.networks.spectral.framing import Framing
from codecvq.networks.spectral.synthesis import MakeBackbone, SynthesisFraming
from codecvq.networks.voice.grid import hz_of
from codecvq.networks.voice.pitch import Pitch, PitchTracker
from codecvq.networks.voice.refiner import Refiner
from codecvq.networks.voice.source import hold_last, interpolate, noise, pulses
from codecvq.networks.voice.source_filter import (
    SECOND_NOISE_START,
    CodedPitch,
    SourceFilter,
    VoiceOutput,
    filtered,
    noise_offset,
    voice_losses,
)
from codecvq.streaming import MIN_ROWS, Chain, StreamingModule, Windows


class SourceFilterDecoder(SourceFilter):
    """Latents `[B, D, T]` to audio `[B, 1, T * H]`.

    Args:
        synthesis: Framing of the spectra.
        dim: Number of latent channels D.
        backbone: Builds the backbone.
        tracker: Measures the pitch of the target audio in training.
        sample_rate: Samples per second.
        pitch_channels: The three latent channels with the pitch, or None.
        refiner_size: Width and number of blocks of a `Refiner`, or None.
    """

    framing: Framing

    def __init__(
        self,
        synthesis: SynthesisFraming,
        dim: int,
        backbone: MakeBackbone,
        tracker: PitchTracker,
        sample_rate: int,
        pitch_channels: Sequence[int] | None,
        refiner_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(synthesis, dim, backbone, tracker, sample_rate, pitch_channels)
        bins, width = self.framing.bins, self.backbone.width
        self.refiner = None if refiner_size is None else Refiner(bins, width, *refiner_size)
        # overlap of the frames of the source and of the output, and one frame to the next pitch value
        margin = 2 * self.framing.overlapping_frames + 1
        margin += 0 if self.refiner is None else self.refiner.reach
        future = max(self.codec_frames(self.backbone.reach.future + margin), self.codec_frames(margin) + 1)
        self.reach = Reach(None, future)  # the phase accumulates over all earlier frames

    def forward(
        self, latents: Tensor, mask: Tensor | None = None, target_wav: Tensor | None = None
    ) -> Tensor | AudioWithLosses:
        """Decode latents: `[B, D, T]`, mask `[B, T]` -> `[B, 1, T * H]`.

        With the recording `[B, 1, T * H]` as `target_wav`, returns losses, too.
        """
        frames = rearrange(latents, "b d t -> b t d")
        coded = self.held_pitch(frames, mask)
        mask = self.upsample_mask(mask)
        hidden, output = self._outputs(frames, coded, mask)
        start = noise_offset(latents) if self.training else 0
        with torch.autocast(latents.device.type, enabled=False):
            signals = self._signals(Pitch(output.position, output.voicing > 0), mask, start)
        wav = self.synthesize(signals, output.log_filters, hidden, mask)
        if target_wav is None:
            return wav
        with torch.autocast(latents.device.type, enabled=False):
            return AudioWithLosses(wav, voice_losses(output, self.tracker(target_wav, mask), mask))

    def as_stream(self) -> StreamingModule | None:
        """Return a stream whose phases continue, or None if the context of the backbone is unlimited."""
        from codecvq.networks.voice.streaming import HeldPitchStream, SignalStream

        past, future = self.backbone.reach.past, self.backbone.reach.future
        if past is None:
            return None
        # a frame before and after, for the interpolation of the coded pitch
        frames = Reach(max(1, self.codec_frames(past)), max(1, self.codec_frames(future)))
        around = 2 * self.framing.overlapping_frames + (0 if self.refiner is None else self.refiner.reach)
        return Chain(
            [
                HeldPitchStream(self),
                Windows(self._predicted, frames, samples_out=self.upsampling),
                SignalStream(self),
                Windows(self._synthesized, Reach(around, around), samples_out=self.framing.hop_length),
            ]
        )

    def held_pitch(self, latents: Tensor, mask: Tensor | None) -> CodedPitch | None:
        """Return the pitch coded in latents `[B, T, D]`; frames without one hold the last one."""
        coded = self.coded_pitch(latents)
        if coded is None:
            return None
        present = coded.present if mask is None else coded.present & mask
        return coded._replace(position=hold_last(coded.position, present))

    def _outputs(
        self, latents: Tensor, coded: CodedPitch | None, mask: Tensor | None
    ) -> tuple[Tensor, VoiceOutput]:
        """Return the output of the backbone `[B, T, X]` and the prediction, for synthesis frames.

        Args:
            latents: Latents of codec frames.
            coded: Their coded pitch, or None.
            mask: Padding mask of synthesis frames.
        """
        features, frames = self.features(latents, coded), latents.shape[1] * self.upsampling
        coded = None if coded is None else self._interpolated(coded)
        missing = max(0, MIN_ROWS - latents.shape[1])
        if missing:  # a stream may begin with few frames; the roundings of its pitch must be the same
            features = F.pad(features, (0, 0, 0, missing))
            padding = (0, missing * self.upsampling)
            mask = F.pad(latents.new_ones(len(latents), frames) if mask is None else mask, padding).bool()
            coded = None if coded is None else CodedPitch(*(F.pad(each, padding) for each in coded))
        hidden = self.hidden(features, mask)
        return hidden[:, :frames], self.predict(hidden, coded).cut(frames)

    def _interpolated(self, coded: CodedPitch) -> CodedPitch:
        """Return the coded pitch of synthesis frames for that of codec frames."""
        position = interpolate(coded.position, self.upsampling)
        return CodedPitch(position, coded.present.repeat_interleave(self.upsampling, dim=1))

    @torch.no_grad()
    def _signals(self, pitch: Pitch, mask: Tensor | None, start: Tensor | int) -> tuple[Tensor, Tensor]:
        """Return the source and the second noise for a whole recording; see `mix`."""
        hop = self.framing.hop_length
        hz = hz_of(hold_last(pitch.position, mask).double())
        voice = interpolate(hold_last(pitch.voiced.float(), mask), hop)
        source, second_noise = self.mix(pulses(hz, hop, self.sample_rate), voice, start)
        if mask is not None:  # silence after the end
            valid = mask.repeat_interleave(hop, dim=1)
            source, second_noise = source * valid, second_noise * valid
        return source, second_noise

    def mix(self, pulse: Tensor, voice: Tensor, start: Tensor | int) -> tuple[Tensor, Tensor]:
        """Return the source, a mix of pulses and noise, `[B, S]`, and the second noise `[1, S]`.

        Args:
            pulse: Pulses `[B, S]`.
            voice: Share of the pulses, `[B, S]`.
            start: Sample of the series of noise.
        """
        starts = (start, start + SECOND_NOISE_START)
        own_noise, second_noise = (noise(voice.shape[1], begin, voice.device)[None] for begin in starts)
        return voice * pulse + (1 - voice) * own_noise, second_noise

    def synthesize(
        self, signals: Sequence[Tensor], log_filters: Tensor, hidden: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Filter the source and the second noise.

        Args:
            signals: The two signals, `[B, T * H]` each; B may be 1.
            log_filters: Their filters; see `VoiceOutput`.
            hidden: Output of the backbone for the refiner, `[B, T, X]`.
            mask: Padding mask `[B, T]`.

        Returns audio `[B, 1, T * H]`.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            sources = [self.framing.spectra(each[:, None]) for each in signals]
            spectra = filtered(sources, log_filters)
        if self.refiner is not None:  # outside of the block, so that autocast applies to it
            spectra = self.refiner(spectra, sources, hidden, mask)
        with torch.autocast(hidden.device.type, enabled=False):
            return self.framing.overlap_add(spectra, mask)

    # Channels of the parts of a stream. Latents: D, and the held pitch (position, present). Frames of the
    # synthesis: filters, pitch (position, voiced), output of the backbone for the refiner, and H samples of
    # both signals.

    def _predicted(self, latents: Tensor) -> Tensor:
        """Predict the synthesis frames of a stream for its latents with held pitch."""
        frames, coded = latents.transpose(1, 2), None
        if self.places is not None:
            frames, position, present = frames[..., :-2], frames[..., -2], frames[..., -1] > 0
            coded = CodedPitch(position, present)
        hidden, output = self._outputs(frames, coded, None)
        pitch = torch.stack([output.position, (output.voicing > 0).float()], dim=2)
        context = hidden if self.refiner is not None else hidden[..., :0]
        return torch.cat([output.log_filters, pitch, context], dim=2).transpose(1, 2)

    def _synthesized(self, frames: Tensor) -> Tensor:
        """Return the audio of a stream for its synthesis frames with signals."""
        hop, filters = self.framing.hop_length, 2 * self.framing.bins
        sizes = [filters, 2, frames.shape[1] - filters - 2 - 2 * hop, hop, hop]
        log_filters, _, hidden, *signals = frames.transpose(1, 2).split(sizes, dim=2)
        return self.synthesize([each.flatten(1) for each in signals], log_filters.contiguous(), hidden, None)

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

from codecvq.api.reach import Reach
from codecvq.networks.interface import AudioWithLosses
from codecvq.networks.spectral.framing import Framing
from codecvq.networks.spectral.synthesis import MakeBackbone, SynthesisFraming
from codecvq.networks.voice.pitch import Pitch, PitchTracker
from codecvq.networks.voice.refiner import Refiner
from codecvq.networks.voice.source import hold_last, interpolate, noise, pulses
from codecvq.networks.voice.source_filter import (
    SECOND_NOISE_START,
    CodedPitch,
    SourceFilter,
    filtered,
    noise_offset,
    voice_losses,
)


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
        hidden = self.hidden(self.features(frames, coded), mask)
        output = self.predict(hidden, None if coded is None else self._interpolated(coded))
        start = noise_offset(latents) if self.training else 0
        with torch.autocast(latents.device.type, enabled=False):
            sources = self._sources(Pitch(output.position, output.voicing > 0), mask, start)
            spectra = filtered(sources, output.log_filters)
        if self.refiner is not None:  # outside of the block, so that autocast applies to it
            spectra = self.refiner(spectra, sources, hidden, mask)
        with torch.autocast(latents.device.type, enabled=False):
            wav = self.framing.overlap_add(spectra, mask)
            if target_wav is None:
                return wav
            return AudioWithLosses(wav, voice_losses(output, self.tracker(target_wav, mask), mask))

    def held_pitch(self, latents: Tensor, mask: Tensor | None) -> CodedPitch | None:
        """Return the pitch coded in latents `[B, T, D]`; frames without one hold the last one."""
        coded = self.coded_pitch(latents)
        if coded is None:
            return None
        present = coded.present if mask is None else coded.present & mask
        return coded._replace(position=hold_last(coded.position, present))

    def _interpolated(self, coded: CodedPitch) -> CodedPitch:
        """Return the coded pitch of synthesis frames for that of codec frames."""
        position = interpolate(coded.position, self.upsampling)
        return CodedPitch(position, coded.present.repeat_interleave(self.upsampling, dim=1))

    @torch.no_grad()
    def _sources(self, pitch: Pitch, mask: Tensor | None, start: Tensor | int) -> tuple[Tensor, Tensor]:
        """Return spectra of the source and of the second noise, complex `[B, T, F]` each.

        Noise starts at sample `start` of its series.
        """
        hop, device = self.framing.hop_length, pitch.position.device
        hz, voice = hold_last(pitch.hz, mask), interpolate(hold_last(pitch.voiced.float(), mask), hop)
        samples = voice.shape[1]
        starts = (start, start + SECOND_NOISE_START)
        unvoiced_source, second_noise = (noise(samples, begin, device)[None] for begin in starts)
        source = voice * pulses(hz, hop, self.sample_rate) + (1 - voice) * unvoiced_source
        if mask is not None:  # silence after the end
            valid = mask.repeat_interleave(hop, dim=1)
            source, second_noise = source * valid, second_noise * valid
        return self.framing.spectra(source[:, None]), self.framing.spectra(second_noise[:, None])

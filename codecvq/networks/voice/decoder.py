"""`SourceFilterDecoder`: latents to speech by a source (pulses and noise) and learned filters.

A decoder that generates phases itself needs long training. Phases retrieved from a decoder's magnitudes
(`codecvq.networks.spectral.phase`) are consistent with these, but not with speech: at low bit rates
magnitudes are smooth where speech has harmonics, and a spectrogram without harmonics sounds like noise. The
phases of a source (`codecvq.networks.voice.source`) at the right pitch are consistent like those of speech,
and produce harmonics also with smooth magnitudes. This is the classical vocoder model (with networks:
arXiv:1904.12088), applied to spectra.

The pitch must be accurate: with an error of 5 %, the tenth harmonic is halfway to its neighbor. With pitch
channels (`codecvq.networks.voice.pitch_code`), the encoder writes the knots of lines that follow the pitch of
the recording (`codecvq.networks.voice.knots`), and the decoder learns a correction. Without such channels, or
if their codebook is dropped, the decoder predicts the pitch from the other channels. The correction and
the prediction are trained by losses of the decoder on the pitch of the recording, since no other loss
depends on the pitch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.api.reach import Reach
from codecvq.networks.interface import AudioWithLosses
from codecvq.networks.spectral.phase import scale_complex, unit_phases
from codecvq.networks.spectral.synthesis import MakeBackbone, Synthesis, SynthesisFraming
from codecvq.networks.voice import pitch_code
from codecvq.networks.voice.grid import grid_size
from codecvq.networks.voice.pitch import Pitch, PitchTracker
from codecvq.networks.voice.refiner import Refiner
from codecvq.networks.voice.source import hold_last, interpolate, noise, pulses

WAVES, LONGEST = 6, 160.0  # pitch features: number of sines and cosines, longest period in grid steps
MAX_CORRECTION = 4.0  # steps; limit of the learned correction of a coded pitch
BLUR = 1.0  # standard deviation in steps of the target distribution of a predicted pitch
NEIGHBORS = 3  # steps on either side of the likeliest one over which the predicted pitch is averaged
MAX_PITCH_ERROR = 8.0  # steps; larger errors are octave errors, which the correction loss excludes
LEARNED_WEIGHT = 0.2  # loss weight of the predicted pitch
SECOND_NOISE_START = 1 << 40  # start of the second noise signal, which is not part of the source


class CodedPitch(NamedTuple):
    """The coded pitch of codec frames `[B, T]`."""

    position: Tensor
    present: Tensor  # bool: False where the codebook is dropped


class SourceFilterDecoder(Synthesis):
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

    uses_target_audio = True
    places: Tensor | None  # [3]: channels with the pitch

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
        features = dim if pitch_channels is None else dim + 2 * WAVES + 1
        super().__init__(synthesis, features, backbone)
        framing, width = self.framing, self.backbone.width
        self.sample_rate = sample_rate
        places = None if pitch_channels is None else torch.tensor(list(pitch_channels))
        self.register_buffer("places", places, persistent=False)
        self.tracker = tracker
        self.filters = nn.Linear(width, 2 * framing.bins)  # log gains of the source and of the second noise
        self.pitch = nn.Linear(width, 2 + grid_size())  # voicing, correction, and predicted pitch
        nn.init.constant_(self.filters.bias[: framing.bins], -3.0)  # starts with quiet speech
        nn.init.constant_(self.filters.bias[framing.bins :], -5.0)
        self.refiner = None if refiner_size is None else Refiner(framing.bins, width, *refiner_size)
        # overlap of the frames of the source and of the output, and one frame to the next pitch value
        margin = 2 * framing.overlapping_frames + 1
        margin += 0 if self.refiner is None else self.refiner.reach
        future = max(self.codec_frames(self.backbone.reach.future + margin), self.codec_frames(margin) + 1)
        self.reach = Reach(None, future)  # the phase accumulates over all earlier frames

    def forward(
        self, latents: Tensor, mask: Tensor | None = None, target_wav: Tensor | None = None
    ) -> Tensor | AudioWithLosses:
        """Decode latents: `[B, D, T]`, mask `[B, T]` -> `[B, 1, T * H]`.

        With the recording `[B, 1, T * H]` as `target_wav`, returns losses, too.
        """
        features, coded_pitch = self._read(rearrange(latents, "b d t -> b t d"), mask)
        mask = self.upsample_mask(mask)
        hidden = self.hidden(features, mask)
        log_filters, pitch_output = self.filters(hidden), self.pitch(hidden)
        with torch.autocast(latents.device.type, enabled=False):
            voicing, added, pitch_logits = pitch_output.float().split([1, 1, grid_size()], dim=2)
            voicing, position = voicing[..., 0], expected_position(pitch_logits)
            corrected = present = None
            if coded_pitch is not None:
                correction = MAX_CORRECTION * added[..., 0].tanh()
                corrected = interpolate(coded_pitch.position, self.upsampling) + correction
                present = coded_pitch.present.repeat_interleave(self.upsampling, dim=1)
                position = torch.where(present, corrected, position)
            start = _noise_offset(latents) if self.training else 0
            sources = self._sources(Pitch(position, voicing > 0), mask, start)
            source_gain, noise_gain = log_filters.float().clamp(max=5).exp().chunk(2, dim=2)
            phases = [unit_phases(each) for each in sources]
            spectra = scale_complex(phases[0], source_gain) + scale_complex(phases[1], noise_gain)
        if self.refiner is not None:  # outside of the block, so that autocast applies to it
            spectra = self.refiner(spectra, sources, hidden, mask)
        with torch.autocast(latents.device.type, enabled=False):
            wav = self.framing.overlap_add(spectra, mask)
            if target_wav is None:
                return wav
            pitch = self.tracker(target_wav, mask)
            losses = voice_losses(voicing, pitch_logits, pitch, mask)
            if corrected is not None and present is not None:
                losses["added"] = added_loss(corrected, present, pitch)
            return AudioWithLosses(wav, losses)

    def _read(self, latents: Tensor, mask: Tensor | None) -> tuple[Tensor, CodedPitch | None]:
        """Return features `[B, T, F]` of latents `[B, T, D]`, and the pitch coded in them."""
        if self.places is None:
            return latents, None
        position, present = pitch_code.decode(latents.index_select(2, self.places).float())
        position = hold_last(position, present if mask is None else present & mask)
        turns = position[..., None] / LONGEST * 2.0 ** torch.arange(WAVES, device=latents.device)
        angles = 2 * torch.pi * turns
        waves = torch.cat([angles.sin(), angles.cos(), torch.ones_like(turns[..., :1])], dim=2)
        rest = latents.index_fill(2, self.places, 0.0)
        return torch.cat([rest, waves * present[..., None]], dim=2), CodedPitch(position, present)

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


def _noise_offset(latents: Tensor) -> Tensor:
    """Return a number that differs from batch to batch, at which noise starts in training.

    The decoder would memorize constant noise. The number depends only on the latents, so a
    resumed training gets the same noise.
    """
    return (latents.detach().double().square().sum() * 1e6).long() % SECOND_NOISE_START


def expected_position(pitch_logits: Tensor) -> Tensor:
    """Return the mean position `[B, T]` around the likeliest step of logits `[B, T, G]`."""
    best = pitch_logits.argmax(dim=2, keepdim=True)
    neighbors = best + torch.arange(-NEIGHBORS, NEIGHBORS + 1, device=pitch_logits.device)
    neighbors = neighbors.clamp(0, pitch_logits.shape[2] - 1)
    return (pitch_logits.gather(2, neighbors).softmax(dim=2) * neighbors).sum(dim=2)


def voice_losses(
    voicing: Tensor, pitch_logits: Tensor, pitch: Pitch, mask: Tensor | None = None
) -> dict[str, Tensor]:
    """Return weighted cross-entropies of voicing and pitch.

    Args:
        voicing: Logits `[B, T]`. The loss is over valid frames.
        pitch_logits: Logits of grid positions `[B, T, G]`. The loss is over voiced frames.
        pitch: The pitch of the recording.
        mask: Padding mask, bool `[B, T]`.
    """
    valid_frames = torch.ones_like(voicing) if mask is None else mask.float()
    voiced = pitch.voiced.float()
    steps = torch.arange(pitch_logits.shape[2], device=pitch_logits.device)
    target = (-0.5 * ((steps - pitch.position[..., None]) / BLUR).square()).softmax(dim=2)
    cross_entropy = -(target * pitch_logits.log_softmax(dim=2)).sum(dim=2)
    return {
        "voicing": F.binary_cross_entropy_with_logits(voicing, voiced, weight=valid_frames)
        * valid_frames.numel()
        / valid_frames.sum(),
        "pitch": LEARNED_WEIGHT * (cross_entropy * voiced).sum() / voiced.sum().clamp(min=1),
    }


def added_loss(corrected: Tensor, present: Tensor, pitch: Pitch) -> Tensor:
    """Return the mean distance in steps of positions `[B, T]` to the pitch of the recording.

    Excludes octave errors.
    """
    distance = (corrected - pitch.position).abs()
    valid = (pitch.voiced & present & (distance < MAX_PITCH_ERROR)).float()
    return (distance * valid).sum() / valid.sum().clamp(min=1)

"""`SourceFilter`, the layers that decoders with a source have in common, and their losses.

The pitch must be accurate: with an error of 5 %, the tenth harmonic is halfway to its neighbor. With pitch
channels (`codecvq.networks.voice.pitch_code`), the encoder writes the pitch of the recording, and the decoder
learns a correction. Without such channels, or if their codebook is dropped, the decoder predicts the pitch
from the other channels. The correction and the prediction are trained by losses of the decoder on the pitch
of the recording, since no other loss depends on the pitch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecvq.networks.spectral.phase import scale_complex, unit_phases
from codecvq.networks.spectral.synthesis import MakeBackbone, Synthesis, SynthesisFraming
from codecvq.networks.voice import pitch_code
from codecvq.networks.voice.grid import grid_size
from codecvq.networks.voice.pitch import Pitch, PitchTracker

WAVES, LONGEST = 6, 160.0  # pitch features: number of sines and cosines, longest period in grid steps
MAX_CORRECTION = 4.0  # steps; limit of the learned correction of a coded pitch
BLUR = 1.0  # standard deviation in steps of the target distribution of a predicted pitch
NEIGHBORS = 3  # steps on either side of the likeliest one over which the predicted pitch is averaged
MAX_PITCH_ERROR = 8.0  # steps; larger errors are octave errors, which the correction loss excludes
LEARNED_WEIGHT = 0.2  # loss weight of the predicted pitch
SECOND_NOISE_START = 1 << 40  # start of the second noise signal, which is not part of the source


class CodedPitch(NamedTuple):
    """The coded pitch of frames `[B, T]`."""

    position: Tensor
    present: Tensor  # bool: False where the codebook is dropped


class VoiceOutput(NamedTuple):
    """What a decoder's layers predict for synthesis frames, in float32."""

    log_filters: Tensor  # [B, T, 2 * bins]: log gains of the source and of the second noise
    voicing: Tensor  # [B, T]: logits
    pitch_logits: Tensor  # [B, T, G]
    corrected: CodedPitch | None  # the coded pitch with the learned correction
    position: Tensor  # [B, T]: the pitch of the source

    def cut(self, frames: int) -> VoiceOutput:
        """Return the first `frames` frames."""
        corrected = self.corrected
        if corrected is not None:
            corrected = CodedPitch(corrected.position[:, :frames], corrected.present[:, :frames])
        return VoiceOutput(
            self.log_filters[:, :frames],
            self.voicing[:, :frames],
            self.pitch_logits[:, :frames],
            corrected,
            self.position[:, :frames],
        )


class SourceFilter(Synthesis):
    """Base class of decoders with a source.

    Args:
        synthesis: Framing of the spectra.
        dim: Number of latent channels D.
        backbone: Builds the backbone.
        tracker: Measures the pitch of the target audio in training.
        sample_rate: Samples per second.
        pitch_channels: The three latent channels with the pitch, or None.
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
    ) -> None:
        features = dim if pitch_channels is None else dim + 2 * WAVES + 1
        super().__init__(synthesis, features, backbone)
        bins, width = self.framing.bins, self.backbone.width
        self.sample_rate = sample_rate
        places = None if pitch_channels is None else torch.tensor(list(pitch_channels))
        self.register_buffer("places", places, persistent=False)
        self.tracker = tracker
        self.filters = nn.Linear(width, 2 * bins)  # log gains of the source and of the second noise
        self.pitch = nn.Linear(width, 2 + grid_size())  # voicing, correction, and predicted pitch
        nn.init.constant_(self.filters.bias[:bins], -3.0)  # starts with quiet speech
        nn.init.constant_(self.filters.bias[bins:], -5.0)

    def coded_pitch(self, latents: Tensor) -> CodedPitch | None:
        """Return the pitch coded in latents `[B, T, D]`; None without pitch channels."""
        if self.places is None:
            return None
        return CodedPitch(*pitch_code.decode(latents.index_select(2, self.places).float()))

    def features(self, latents: Tensor, coded: CodedPitch | None) -> Tensor:
        """Return the input `[B, T, F]` of the network for latents `[B, T, D]` and the pitch in them."""
        if self.places is None or coded is None:
            return latents
        turns = coded.position[..., None] / LONGEST * 2.0 ** torch.arange(WAVES, device=latents.device)
        angles = 2 * torch.pi * turns
        waves = torch.cat([angles.sin(), angles.cos(), torch.ones_like(turns[..., :1])], dim=2)
        rest = latents.index_fill(2, self.places, 0.0)
        return torch.cat([rest, waves * coded.present[..., None]], dim=2)

    def predict(self, hidden: Tensor, coded: CodedPitch | None) -> VoiceOutput:
        """Predict filters and pitch of synthesis frames `[B, T, X]`, with the coded pitch of these frames."""
        return self.output(*self.project(hidden), coded)

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the last layers `filters` and `pitch`."""
        return self.filters(hidden), self.pitch(hidden)

    def output(self, log_filters: Tensor, pitch_output: Tensor, coded: CodedPitch | None) -> VoiceOutput:
        """Return the prediction from the outputs of the last layers and the coded pitch."""
        with torch.autocast(log_filters.device.type, enabled=False):
            voicing, added, logits = pitch_output.float().split([1, 1, grid_size()], dim=2)
            position, corrected = expected_position(logits), None
            if coded is not None:
                corrected = CodedPitch(coded.position + MAX_CORRECTION * added[..., 0].tanh(), coded.present)
                position = torch.where(coded.present, corrected.position, position)
            return VoiceOutput(log_filters.float(), voicing[..., 0], logits, corrected, position)


def filtered(sources: Sequence[Tensor], log_filters: Tensor) -> Tensor:
    """Return the sum of two filtered sources.

    Only the phases of the sources are used. Shapes: complex `[B, T, F]`, log gains `[B, T, 2 * F]` -> complex
    `[B, T, F]`.
    """
    source_gain, noise_gain = log_filters.clamp(max=5).exp().chunk(2, dim=2)
    phases = [unit_phases(each) for each in sources]
    return scale_complex(phases[0], source_gain) + scale_complex(phases[1], noise_gain)


def noise_offset(latents: Tensor) -> Tensor:
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


def voice_losses(output: VoiceOutput, pitch: Pitch, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Return all losses of predicted voicing and pitch, for the pitch and padding mask `[B, T]`."""
    losses = prediction_losses(output.voicing, output.pitch_logits, pitch, mask)
    if output.corrected is not None:
        losses["added"] = added_loss(*output.corrected, pitch)
    return losses


def prediction_losses(
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

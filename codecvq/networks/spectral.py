"""The spectral network: everything between the two Fourier transforms happens at the frame rate.

wav -> log-mel (or compressed STFT) -> ConvNeXt blocks -> latents -> ConvNeXt blocks -> magnitude and phase ->
inverse STFT, after Vocos (arXiv:2306.00814) with an encoder of the same kind. LayerNorm is per frame and
there is no normalisation over time, so neither padding nor cutting into chunks changes a frame beyond the
receptive field.

Phases are predicted as magnitudes are, retrieved from magnitudes (`codecvq.networks.phase`), or those of a
source of speech (`codecvq.networks.speaking`). Few bits say nothing of phases, and a network needs a long
training with discriminators to make up some that fit each other; with retrieved ones it has magnitudes to
learn and nothing else, with a source magnitudes and pitch. Both are best with frames of some 40 ms, 10 ms
apart, which may be closer than the codec's: then the decoder works at `synthesis_hop_length`.

Offline, windows are centred on their hops both ways (`Framing`), convolutions see three frames on either
side. Causal, the analysis window ends with its hop, or `lookahead_frames` hops later; convolutions see six
frames back; and the decoder's signal of a frame begins with its hop (`Crossfade`): audio up to (t + 1)H is
decoded from codes up to frame t, which were made from audio up to (t + 1 + lookahead_frames)H. Letters: F
features or frequencies a frame, X channels inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from codecvq.errors import OptionError
from codecvq.networks import pitch_code
from codecvq.networks.backbone import Backbone
from codecvq.networks.features import Beside, CompressedStft, DetailMel, FrontEnd, LogMel
from codecvq.networks.framing import Crossfade, Framing
from codecvq.networks.interface import Network, Reach
from codecvq.networks.pitch import PitchTracker
from codecvq.networks.pitch_writer import PitchWriter
from codecvq.networks.presets import sized
from codecvq.networks.refiner import Refiner
from codecvq.networks.retrieving import RetrievingDecoder
from codecvq.networks.speaking import SpeakingDecoder

ITERATIONS = 16  # of retrieving phases, where nothing is said
MOST_ITERATIONS = 1000
LONGEST_WINDOW = 2**17  # samples: nearly three seconds at 44.1 kHz


@dataclass(frozen=True, kw_only=True)
class Size:
    """Channels inside, and blocks."""

    encoder_width: int
    encoder_blocks: int
    decoder_width: int
    decoder_blocks: int


PRESETS = {
    "tiny": Size(encoder_width=128, encoder_blocks=3, decoder_width=192, decoder_blocks=4),
    "small": Size(encoder_width=256, encoder_blocks=4, decoder_width=384, decoder_blocks=6),
    "base": Size(encoder_width=384, encoder_blocks=8, decoder_width=512, decoder_blocks=8),
    "large": Size(encoder_width=512, encoder_blocks=8, decoder_width=768, decoder_blocks=12),
}


#: With pitch channels the encoder depends on `synthesis_hop_length` too, and `phase` is "source".
DECODER_OPTIONS = (
    "phase",
    "phase_iterations",
    "training_phase",
    "synthesis_window_length",
    "refiner_width",
    "refiner_blocks",
    "decoder_width",
    "decoder_blocks",
)


def build_spectral(
    *,
    sample_rate: int,
    channels: int = 1,
    hop_length: int = 320,
    window_length: int = 1280,
    features: Literal["log_mel", "stft"] = "log_mel",
    num_mels: int = 100,
    detail_window_length: int = 0,
    causal: bool = False,
    lookahead_frames: int = 0,
    phase: Literal["predicted", "retrieved", "source"] = "predicted",
    phase_iterations: int = ITERATIONS,
    training_phase: Literal["recorded", "retrieved"] = "recorded",
    synthesis_hop_length: int | None = None,
    synthesis_window_length: int | None = None,
    pitch_channels: Sequence[int] | None = None,
    refiner_width: int = 192,
    refiner_blocks: int = 0,
    preset: str = "small",
    encoder_width: int | None = None,
    encoder_blocks: int | None = None,
    decoder_width: int | None = None,
    decoder_blocks: int | None = None,
    dim: int = 64,
) -> Network:
    """A spectral network. `preset` is its size, of which widths and blocks that are given take their place;
    `dim` is D of the latents, lengths are in samples.

    With `phase` "retrieved" or "source" the decoder works every `synthesis_hop_length` samples, by default
    the hop, on windows of `synthesis_window_length`, by default four of these. `phase_iterations` are what
    retrieving may cost. In training its phases are by `training_phase` those of the recording, so that
    magnitudes are all there is to learn, or "retrieved" too: slower by a third, and what is heard in the end.

    "source" is for speech alone. With `pitch_channels` the pitch is written in these three channels of the
    latents, for a quantizer that rounds each to five levels (`codecvq.networks.pitch_code`); without, it is
    learned. With `refiner_blocks` above 0 its spectra pass a `Refiner` of that size, which begins as identity
    (`codecvq.networks.refiner`).

    `detail_window_length`, where not 0, shows the encoder log-mels of a second, shorter window too: onsets
    that the long one smears. `lookahead_frames` are hops that the encoder of a causal network waits for.
    """
    size = sized(
        "spectral",
        PRESETS,
        preset,
        encoder_width=encoder_width,
        encoder_blocks=encoder_blocks,
        decoder_width=decoder_width,
        decoder_blocks=decoder_blocks,
    )
    _check(channels, hop_length, window_length, causal, lookahead_frames)
    _check_phase(phase, phase_iterations, training_phase, synthesis_hop_length or synthesis_window_length)
    _check_pitch(pitch_channels, phase, dim)
    _check_refiner(refiner_width, refiner_blocks, phase)
    after = lookahead_frames * hop_length if causal else None
    framing = Framing(window_length, hop_length, after)
    front = _front(features, framing, sample_rate, num_mels, detail_window_length, after)
    widths = size.encoder_width, size.encoder_blocks
    encoder = partial(SpectralEncoder, front, hop_length, *widths, dim, causal)
    network = partial(Network, dim=dim, hop_length=hop_length, decoder_options=DECODER_OPTIONS)
    width, blocks = size.decoder_width, size.decoder_blocks
    if phase == "predicted":
        back = Crossfade(hop_length) if causal else framing
        return network(encoder(), SpectralDecoder(back, dim, width, blocks, causal))
    step = synthesis_hop_length or hop_length
    length = synthesis_window_length or 4 * step + step % 2
    _check_synthesis(hop_length, step, length, phase, causal)
    synthesis, times = Framing(length, step), hop_length // step
    if phase == "retrieved":
        _check_iterations(phase_iterations)
        retrieving = RetrievingDecoder(synthesis, times, dim, width, blocks, phase_iterations, training_phase)
        return network(encoder(), retrieving)
    tracker = PitchTracker(sample_rate, step)
    refiner = Refiner(synthesis.bins, width, refiner_width, refiner_blocks) if refiner_blocks else None
    speaking = SpeakingDecoder(
        synthesis, times, dim, width, blocks, tracker, sample_rate, pitch_channels, refiner
    )
    if pitch_channels is None:
        return network(encoder(), speaking)
    writer = PitchWriter(tracker, times, pitch_channels)
    check = partial(pitch_code.check_kept, channels=pitch_channels)
    return network(encoder(writer), speaking, check=check)


def _front(
    features: str, framing: Framing, sample_rate: int, num_mels: int, detail_length: int, after: int | None
) -> FrontEnd:
    if features == "stft":
        return CompressedStft(framing)
    if features != "log_mel":
        raise OptionError(f"spectral: features is {features!r}; it is log_mel or stft")
    if not 1 <= num_mels <= framing.bins or not 0 <= detail_length <= LONGEST_WINDOW:
        raise OptionError(
            f"spectral: num_mels is {num_mels} and detail_window_length {detail_length}; needed are 1 to "
            f"{framing.bins} bands, as many as the window has frequencies, and at most {LONGEST_WINDOW} "
            "samples."
        )
    front = LogMel(framing, sample_rate, num_mels)
    if not detail_length:
        return front
    return Beside(front, DetailMel(detail_length, framing.hop_length, sample_rate, num_mels, after))


def _check(channels: int, hop_length: int, window_length: int, causal: bool, lookahead_frames: int) -> None:
    if channels != 1:
        raise OptionError(
            f"spectral: channels is {channels}; this network is for mono audio. Set channels: 1."
        )
    uncentred = not causal and (window_length - hop_length) % 2
    if window_length < hop_length or uncentred or hop_length < 1:
        raise OptionError(
            f"spectral: window_length {window_length} and hop_length {hop_length}: the window must be at "
            "least a hop, "
            f"and the difference even. Usual is window_length = 4 * hop_length."
        )
    if window_length > LONGEST_WINDOW:
        raise OptionError(
            f"spectral: window_length is {window_length}, which is more than {LONGEST_WINDOW} samples."
        )
    if lookahead_frames and not causal:
        raise OptionError(
            f"spectral: lookahead_frames is {lookahead_frames}, but the network is not causal and sees what "
            "it needs. Set causal: true, or leave lookahead_frames out."
        )
    if not 0 <= lookahead_frames * hop_length <= window_length - hop_length:
        raise OptionError(
            f"spectral: lookahead_frames is {lookahead_frames}; with a window of {window_length} samples and "
            f"hops of {hop_length} it is 0 to {window_length // hop_length - 1}."
        )


def _check_phase(phase: str, iterations: int, training_phase: str, length: int | None) -> None:
    if phase not in ("predicted", "retrieved", "source"):
        raise OptionError(f"spectral: phase is {phase!r}; it is predicted, retrieved or source")
    if phase != "retrieved" and (iterations != ITERATIONS or training_phase != "recorded"):
        raise OptionError(
            f"spectral: phase_iterations and training_phase are for phase: retrieved, and phase is {phase}. "
            "Leave them out."
        )
    if phase == "predicted" and length:
        raise OptionError(
            "spectral: synthesis_hop_length and synthesis_window_length are for phase: retrieved and "
            "phase: source. Set one of them, or leave the lengths out."
        )


def _check_synthesis(hop_length: int, step: int, window_length: int, phase: str, causal: bool) -> None:
    if causal:
        raise OptionError(
            f"spectral: phase: {phase} hears what comes, and the network is causal. Set phase: predicted."
        )
    if step < 1 or hop_length % step:
        raise OptionError(
            f"spectral: synthesis_hop_length is {step}; it has to divide hop_length, {hop_length}, "
            "without rest."
        )
    if not 2 * step <= window_length <= max(LONGEST_WINDOW, 4 * step) or (window_length - step) % 2:
        raise OptionError(
            f"spectral: synthesis_window_length is {window_length}; with steps of {step} it is {2 * step} to "
            f"{LONGEST_WINDOW}, and the difference even. Usual are four steps."
        )


def _check_iterations(iterations: int) -> None:
    if not 1 <= iterations <= MOST_ITERATIONS:
        raise OptionError(
            f"spectral: phase_iterations is {iterations}; it is 1 to {MOST_ITERATIONS}, usually {ITERATIONS}"
        )


def _check_pitch(channels: Sequence[int] | None, phase: str, dim: int) -> None:
    if channels is None:
        return
    if phase != "source":
        raise OptionError(
            f"spectral: pitch_channels are {channels}, but phase is {phase}, which asks for no pitch. "
            "Set phase: source, or leave pitch_channels out."
        )
    given = channels if isinstance(channels, Sequence) else ()
    places = {channel for channel in given if type(channel) is int and 0 <= channel < dim}
    if not len(places) == len(given) == pitch_code.CHANNELS:
        raise OptionError(
            f"spectral: pitch_channels are {channels}; with dim {dim} they are "
            f"{pitch_code.CHANNELS} different ones from 0 to {dim - 1}, as [5, 6, 7]."
        )


def _check_refiner(width: int, blocks: int, phase: str) -> None:
    if type(blocks) is not int or blocks < 0 or type(width) is not int or width < 1:
        raise OptionError(
            f"spectral: refiner_blocks is {blocks!r} and refiner_width {width!r}; needed are whole numbers "
            "from 0 and from 1."
        )
    if blocks and phase != "source":
        raise OptionError(
            f"spectral: refiner_blocks is {blocks}, but phase is {phase}. Set phase: source, or leave "
            "refiner_blocks out."
        )


class SpectralEncoder(nn.Module):
    """Audio to latents."""

    def __init__(
        self,
        front: FrontEnd,
        hop_length: int,
        width: int,
        blocks: int,
        dim: int,
        causal: bool,
        pitch: PitchWriter | None = None,
    ) -> None:
        super().__init__()
        self.front, self.pitch = front, pitch
        if pitch is not None:  # it is what codes mean, so hashes of weights are to tell
            self.register_buffer("written_at", torch.tensor(pitch.channels))
            self.register_load_state_dict_pre_hook(_check_written_at)
        self.backbone = Backbone(front.num_features, width, blocks, causal)
        self.project = nn.Linear(width, dim)
        frames = self.backbone.reach
        assert frames.past is not None, "there is nothing recurrent in it"
        if pitch is None:  # the best path of a pitch is that through all of the audio
            past, future = frames.past * hop_length + front.before, frames.future * hop_length + front.after
            self.reach = Reach(past, future)

    def forward(self, wav: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B, 1, S]`, S = T * H, mask `[B, T]` -> `[B, D, T]`."""
        with torch.autocast(wav.device.type, enabled=False):
            features = self.front(wav)
        latents = self.project(self.backbone(features, mask))
        if self.pitch is not None:
            latents = self.pitch(latents, wav, mask)
        return rearrange(latents, "b t d -> b d t")


def _check_written_at(encoder: nn.Module, weights: Mapping[str, Tensor], prefix: str, *details: Any) -> None:
    """Weights fit where the pitch is written in the same channels. As torch calls what looks at weights
    before they are loaded; the last of `details` lists what does not fit.
    """
    theirs, ours = weights.get(f"{prefix}written_at"), encoder.get_buffer("written_at")
    if theirs is not None and theirs.tolist() != ours.tolist():
        details[-1].append(
            f"their pitch is written in channels {theirs.tolist()}, and pitch_channels are {ours.tolist()}"
        )


class SpectralDecoder(nn.Module):
    """Latents to audio, phases and all."""

    def __init__(self, framing: Framing | Crossfade, dim: int, width: int, blocks: int, causal: bool) -> None:
        super().__init__()
        self.framing = framing
        self.backbone = Backbone(dim, width, blocks, causal)
        self.head = nn.Linear(width, 2 * framing.bins)
        frames = self.backbone.reach
        assert frames.past is not None, "there is nothing recurrent in it"
        beside = framing.frames_beside
        self.reach = Reach(frames.past + beside, 0 if causal else frames.future + beside)

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B, D, T]`, mask `[B, T]` -> `[B, 1, T * H]`."""
        hidden = self.head(self.backbone(rearrange(latents, "b d t -> b t d"), mask))
        with torch.autocast(latents.device.type, enabled=False):
            log_magnitude, phase = hidden.float().chunk(2, dim=2)  # [B, T, F] each
            magnitude = log_magnitude.clamp(max=5).exp()  # e^5 = 148: louder than full scale can be
            return self.framing.overlap_add(torch.polar(magnitude, phase), mask)

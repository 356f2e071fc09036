"""The head for speech, with phases of a source at the coded pitch (`codecvq.networks.voice.decoder`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from codecvq.errors import OptionError
from codecvq.networks.spectral.parts import Head
from codecvq.networks.spectral.synthesis import MakeBackbone, SynthesisFraming
from codecvq.networks.voice import pitch_code
from codecvq.networks.voice.causal_decoder import CausalSourceFilterDecoder
from codecvq.networks.voice.causal_pitch_writer import CausalPitchWriter
from codecvq.networks.voice.decoder import SourceFilterDecoder
from codecvq.networks.voice.pitch import PitchTracker
from codecvq.networks.voice.pitch_writer import PitchWriter


def make_source(
    *,
    sample_rate: int,
    hop_length: int,
    causal: bool,
    dim: int,
    backbone: MakeBackbone,
    pitch_channels: Sequence[int] | None = None,
    refiner_width: int = 192,
    refiner_blocks: int = 0,
    synthesis_hop_length: int | None = None,
    synthesis_window_length: int | None = None,
    lookahead_frames: int = 0,
) -> Head:
    """Build a head for speech only.

    With `pitch_channels`, the encoder writes the measured pitch into these three latent channels, for a
    quantizer that rounds each to five levels. Without them, the decoder predicts the pitch from the latents.
    In a causal network, the pitch is measured with `lookahead_frames` codec frames of future audio.
    """
    _check_pitch(pitch_channels, dim)
    _check_refiner(refiner_width, refiner_blocks)
    if causal:
        if refiner_blocks:
            raise OptionError(
                f"spectral: refiner_blocks is {refiner_blocks}, but the refiner needs future frames, and the "
                "network is causal. Remove refiner_blocks."
            )
        synthesis = SynthesisFraming.causal(hop_length, synthesis_hop_length, synthesis_window_length)
        return _causal(synthesis, sample_rate, hop_length, dim, backbone, pitch_channels, lookahead_frames)
    synthesis = SynthesisFraming.from_options(
        "source", hop_length, causal, synthesis_hop_length, synthesis_window_length
    )
    tracker = PitchTracker(sample_rate, synthesis.framing.hop_length)
    refiner = (refiner_width, refiner_blocks) if refiner_blocks else None
    decoder = partial(
        SourceFilterDecoder, synthesis, dim, backbone, tracker, sample_rate, pitch_channels, refiner
    )
    if pitch_channels is None:
        return Head(decoder)
    writer = PitchWriter(tracker, synthesis.upsampling, pitch_channels)
    return Head(decoder, writer, partial(pitch_code.check_preserved, channels=pitch_channels))


def _causal(
    synthesis: SynthesisFraming,
    sample_rate: int,
    hop_length: int,
    dim: int,
    backbone: MakeBackbone,
    pitch_channels: Sequence[int] | None,
    lookahead_frames: int,
) -> Head:
    tracker = PitchTracker(sample_rate, synthesis.framing.hop_length)
    decoder = partial(
        CausalSourceFilterDecoder, synthesis, dim, backbone, tracker, sample_rate, pitch_channels
    )
    if pitch_channels is None:
        return Head(decoder)
    writer = CausalPitchWriter(
        sample_rate,
        hop_length,
        synthesis.upsampling,
        lookahead_frames,
        synthesis.framing.window_length,
        pitch_channels,
    )
    return Head(decoder, writer, partial(pitch_code.check_preserved, channels=pitch_channels))


def _check_pitch(channels: Sequence[int] | None, dim: int) -> None:
    if channels is None:
        return
    given = channels if isinstance(channels, Sequence) else ()
    places = {channel for channel in given if type(channel) is int and 0 <= channel < dim}
    if not len(places) == len(given) == pitch_code.CHANNELS:
        raise OptionError(
            f"spectral: pitch_channels are {channels}; with dim {dim}, needed are "
            f"{pitch_code.CHANNELS} different numbers from 0 to {dim - 1}, for example [5, 6, 7]."
        )


def _check_refiner(width: int, blocks: int) -> None:
    if type(blocks) is not int or blocks < 0 or type(width) is not int or width < 1:
        raise OptionError(
            f"spectral: refiner_blocks is {blocks!r} and refiner_width {width!r}; needed are whole numbers: "
            "blocks from 0 up, width from 1 up."
        )

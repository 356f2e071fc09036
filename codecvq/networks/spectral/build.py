"""Construction of the spectral network from its parts."""

from __future__ import annotations

from functools import partial
from typing import Any

from codecvq.errors import OptionError
from codecvq.networks.interface import Network
from codecvq.networks.spectral.encoder import SpectralEncoder
from codecvq.networks.spectral.options import DECODER_OPTIONS, SpectralOptions, parts_of
from codecvq.networks.spectral.parts import FrameNetwork, FrontEnd, Head, build_part


def build_spectral(*, sample_rate: int, channels: int = 1, **options: Any) -> Network:
    """Build a spectral network from `SpectralOptions`, for mono audio."""
    given = SpectralOptions(**options)
    _check(channels, given)
    parts = parts_of(given)
    hop, causal = given.hop_length, given.causal
    features = build_part(
        "features", parts.features, sample_rate=sample_rate, hop_length=hop, causal=causal,
        lookahead_frames=given.lookahead_frames,
    )  # fmt: skip
    backbone = partial(build_part, "backbone", parts.decoder_backbone, causal=causal)
    head = build_part(
        "head", parts.head, sample_rate=sample_rate, hop_length=hop, causal=causal, dim=given.dim,
        backbone=lambda features: backbone(features=features),
    )  # fmt: skip
    encoder_backbone = build_part(
        "backbone", parts.encoder_backbone, features=features.num_features, causal=causal
    )
    return spectral_network(features, encoder_backbone, head, hop_length=hop, dim=given.dim)


def spectral_network(
    features: FrontEnd, backbone: FrameNetwork, head: Head, *, hop_length: int, dim: int
) -> Network:
    """Build a network from parts.

    `backbone` is the backbone of the encoder; `head` contains the backbone of the decoder.
    """
    encoder = SpectralEncoder(features, backbone, hop_length, dim, head.writer)
    # If the encoder writes values for the head into the latents, the head affects the meaning of codes.
    decoder_options = DECODER_OPTIONS if head.writer is not None else (*DECODER_OPTIONS, "head")
    return Network(encoder, head.decoder(), dim, hop_length, head.check, decoder_options)


def _check(channels: int, options: SpectralOptions) -> None:
    if channels != 1:
        raise OptionError(
            f"spectral: channels is {channels}; this network is for mono audio. Set channels: 1."
        )
    if options.hop_length < 1 or options.dim < 1:
        raise OptionError(
            f"spectral: hop_length is {options.hop_length} and dim {options.dim}; both must be at least 1."
        )
    if options.lookahead_frames and not options.causal:
        raise OptionError(
            f"spectral: lookahead_frames is {options.lookahead_frames}, but the network is not causal and "
            "uses future frames anyway. Set causal: true, or remove lookahead_frames."
        )

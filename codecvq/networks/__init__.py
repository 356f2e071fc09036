"""Encoders, decoders and discriminators. The built-in ones are registered in the same way as plugins.

Names for authors of networks are imported on first use: the hooks below do not need torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from codecvq.api.hookspecs import DiscriminatorSpec, NetworkPartSpec, NetworkSpec, hookimpl

if TYPE_CHECKING:
    from codecvq.networks.build import build_discriminator, build_network
    from codecvq.networks.fourier import local_mean, mel_filters, power_spectra
    from codecvq.networks.interface import (
        AudioWithLosses,
        Discriminator,
        DiscriminatorOutput,
        Network,
        zero_padding,
    )
    from codecvq.networks.spectral import Decoder, FrameNetwork, FrontEnd, Head, spectral_network

__all__ = [
    "AudioWithLosses",
    "Decoder",
    "Discriminator",
    "DiscriminatorOutput",
    "FrameNetwork",
    "FrontEnd",
    "Head",
    "Network",
    "build_discriminator",
    "build_network",
    "local_mean",
    "mel_filters",
    "power_spectra",
    "spectral_network",
    "zero_padding",
]

_LAZY = {
    "build": ("build_discriminator", "build_network"),
    "fourier": ("local_mean", "mel_filters", "power_spectra"),
    "interface": ("Discriminator", "DiscriminatorOutput", "Network", "AudioWithLosses", "zero_padding"),
    "spectral": ("Decoder", "FrameNetwork", "FrontEnd", "Head", "spectral_network"),
}


def __getattr__(name: str) -> Any:  # Any: an attribute of the module
    module = next((module for module, names in _LAZY.items() if name in names), None)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


@hookimpl
def codecvq_networks() -> Iterable[NetworkSpec]:
    """Register the networks `spectral` and `seanet`, and the discriminators."""
    yield NetworkSpec(
        name="spectral",
        factory="codecvq.networks.spectral:build_spectral",
        options="codecvq.networks.spectral.options:SpectralOptions",
        summary="log-mel or STFT, ConvNeXt blocks at the frame rate, inverse STFT",
        reference="arXiv:2306.00814",
    )
    yield NetworkSpec(
        name="seanet",
        factory="codecvq.networks.seanet:build_seanet",
        summary="EnCodec's convolutions at the sample rate",
        reference="arXiv:2210.13438",
    )
    yield DiscriminatorSpec(
        name="ms_stft",
        factory="codecvq.networks.discriminators.ms_stft:build_ms_stft",
        summary="discriminator: EnCodec's, on complex spectra of several windows",
        reference="arXiv:2210.13438",
    )
    yield DiscriminatorSpec(
        name="multi_period",
        factory="codecvq.networks.discriminators.multi_period:build_multi_period",
        summary="discriminator: HiFi-GAN's, on the signal folded at several periods",
        reference="arXiv:2010.05646",
    )
    yield DiscriminatorSpec(
        name="multi_band",
        factory="codecvq.networks.discriminators.multi_band:build_multi_band",
        summary="discriminator: DAC's, on bands of complex spectra; with settings for training on CPUs",
        reference="arXiv:2306.06546",
    )


@hookimpl
def codecvq_network_parts() -> Iterable[NetworkPartSpec]:
    """Register the parts of `spectral`."""
    for kind, name, factory, summary in (
        ("features", "log_mel", "spectral.features:make_log_mel", "log-mel spectra of one or two windows"),
        ("features", "stft", "spectral.features:make_stft", "STFT with magnitudes to the power 0.3"),
        ("backbone", "convnext", "spectral.backbone:make_convnext", "ConvNeXt blocks over frames"),
        ("head", "predicted", "spectral.predicted:make_predicted", "predicts phases, as Vocos"),
        (
            "head",
            "retrieved",
            "spectral.retrieved:make_retrieved",
            "retrieves phases from predicted magnitudes",
        ),
        ("head", "source", "voice.head:make_source", "for speech: phases of a source at the coded pitch"),
    ):
        yield NetworkPartSpec(name=name, kind=kind, factory=f"codecvq.networks.{factory}", summary=summary)

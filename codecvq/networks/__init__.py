"""Encoders and decoders, which turn audio into latents and latents into audio; and discriminators, which
judge the result in training. The built-in ones are offered as any plugin's.
"""

from __future__ import annotations

from collections.abc import Iterable

from codecvq.api.hookspecs import DiscriminatorSpec, NetworkSpec, hookimpl


@hookimpl
def codecvq_networks() -> Iterable[NetworkSpec]:
    """Offer `spectral` and `seanet`, and the discriminators."""
    yield NetworkSpec(
        name="spectral",
        factory="codecvq.networks.spectral:build_spectral",
        summary="log-mel or STFT in, ConvNeXt blocks, inverse STFT out: all the work at the frame rate",
        reference="arXiv:2306.00814",
    )
    yield NetworkSpec(
        name="seanet",
        factory="codecvq.networks.seanet:build_seanet",
        summary="encodec's convolutions at the sample rate",
        reference="arXiv:2210.13438",
    )
    yield DiscriminatorSpec(
        name="ms_stft",
        factory="codecvq.networks.discriminators.ms_stft:build_ms_stft",
        summary="discriminator: encodec's, over complex spectra of several windows",
        reference="arXiv:2210.13438",
    )
    yield DiscriminatorSpec(
        name="multi_period",
        factory="codecvq.networks.discriminators.multi_period:build_multi_period",
        summary="discriminator: HiFi-GAN's, over the signal folded at several periods",
        reference="arXiv:2010.05646",
    )
    yield DiscriminatorSpec(
        name="multi_band",
        factory="codecvq.networks.discriminators.multi_band:build_multi_band",
        summary="discriminator: DAC's, over bands of complex spectra; with settings for processors",
        reference="arXiv:2306.06546",
    )

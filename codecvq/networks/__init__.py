"""Encoders and decoders: what turns audio into latents and latents into audio. The built-in ones are offered
as any plugin's.
"""

from __future__ import annotations

from collections.abc import Iterable

from codecvq.hookspecs import NetworkSpec, hookimpl


@hookimpl
def codecvq_networks() -> Iterable[NetworkSpec]:
    """Offer `spectral` and `seanet`."""
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

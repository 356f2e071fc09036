"""Finite scalar quantization."""

from collections.abc import Iterable

from codecvq import QuantizerSpec, hookimpl


@hookimpl
def codecvq_quantizers() -> Iterable[QuantizerSpec]:
    """Register `fsq`."""
    yield QuantizerSpec(
        name="fsq",
        factory="codecvq_fsq.quantizer:FSQ",
        summary="each latent channel rounded to a few levels: no codebook, no loss, no collapse",
        reference="arXiv:2309.15505",
    )

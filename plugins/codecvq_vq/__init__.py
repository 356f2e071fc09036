"""Classic vector quantization."""

from collections.abc import Iterable

from codecvq import QuantizerSpec, hookimpl


@hookimpl
def codecvq_quantizers() -> Iterable[QuantizerSpec]:
    """Register `vq`."""
    yield QuantizerSpec(
        name="vq",
        factory="codecvq_vq.quantizer:VQ",
        summary="nearest of K learned codewords, by moving averages or by gradient",
        reference="arXiv:1711.00937",
    )

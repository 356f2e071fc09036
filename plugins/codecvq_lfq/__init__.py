"""Lookup-free quantization, plain and on the sphere."""

from collections.abc import Iterable

from codecvq import QuantizerSpec, hookimpl


@hookimpl
def codecvq_quantizers() -> Iterable[QuantizerSpec]:
    """Register `lfq` and `bsq`."""
    yield QuantizerSpec(
        name="lfq",
        factory="codecvq_lfq.quantizer:LFQ",
        summary="one bit per channel; an entropy loss keeps the codes in use",
        reference="arXiv:2310.05737",
    )
    yield QuantizerSpec(
        name="bsq",
        factory="codecvq_lfq.quantizer:BSQ",
        summary="one bit per channel on the unit sphere: bounded error",
        reference="arXiv:2406.07548",
    )

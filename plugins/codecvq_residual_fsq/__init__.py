"""Residual finite scalar quantization as an exact expansion."""

from collections.abc import Iterable

from codecvq import QuantizerSpec, hookimpl


@hookimpl
def codecvq_quantizers() -> Iterable[QuantizerSpec]:
    """Register `residual_fsq`."""
    yield QuantizerSpec(
        name="residual_fsq",
        factory="codecvq_residual_fsq.quantizer:ResidualFSQ",
        summary="fsq in stages, each of which codes the next digit in base L",
        reference="arXiv:2309.15505",
    )

"""Residual finite scalar quantization as an exact expansion."""

from collections.abc import Iterable

from codecvq import QuantizerSpec, hookimpl


@hookimpl
def codecvq_quantizers() -> Iterable[QuantizerSpec]:
    """Offer `residual_fsq`."""
    yield QuantizerSpec(
        name="residual_fsq",
        factory="codecvq_residual_fsq.quantizer:ResidualFSQ",
        summary="fsq in stages, each the next digit in base L: every depth of one code",
        reference="arXiv:2309.15505",
    )

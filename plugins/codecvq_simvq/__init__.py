"""SimVQ: a frozen codebook behind one learned linear map."""

from collections.abc import Iterable

from codecvq import QuantizerSpec, hookimpl


@hookimpl
def codecvq_quantizers() -> Iterable[QuantizerSpec]:
    """Register `simvq`."""
    yield QuantizerSpec(
        name="simvq",
        factory="codecvq_simvq.quantizer:SimVQ",
        summary="nearest of K frozen codewords behind a learned linear map: large codebooks stay in use",
        reference="arXiv:2411.02038",
    )

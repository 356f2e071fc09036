"""Classic vector quantization, and the straight-through estimator."""

from collections.abc import Iterable

from codecvq import EstimatorSpec, QuantizerSpec, hookimpl


@hookimpl
def codecvq_quantizers() -> Iterable[QuantizerSpec]:
    """Offer `vq`."""
    yield QuantizerSpec(
        name="vq",
        factory="codecvq_vq.quantizer:VQ",
        summary="nearest of K learned codewords, by moving averages or by gradient",
        reference="arXiv:1711.00937",
    )


@hookimpl
def codecvq_estimators() -> Iterable[EstimatorSpec]:
    """Offer `ste`."""
    yield EstimatorSpec(
        name="ste",
        factory="codecvq_vq.estimator:straight_through",
        summary="straight-through: the gradient passes unchanged",
        reference="arXiv:1308.3432",
    )

"""What the library itself offers, whatever plugins are disabled: the estimator that is every default, and the
compositions of quantizers.
"""

from __future__ import annotations

from collections.abc import Iterable

from codecvq.api.hookspecs import EstimatorSpec, QuantizerSpec, hookimpl


@hookimpl
def codecvq_estimators() -> Iterable[EstimatorSpec]:
    """Offer `ste`."""
    yield EstimatorSpec(
        name="ste",
        factory="codecvq.quantizer.estimators:straight_through",
        summary="straight-through: the gradient passes unchanged",
        reference="arXiv:1308.3432",
    )


@hookimpl
def codecvq_quantizers() -> Iterable[QuantizerSpec]:
    """Offer `residual`, `multiscale`, `grouped` and `split`."""
    for name, summary, reference in (
        ("residual", "a quantizer in stages, each for what the ones before left over", "arXiv:2107.03312"),
        ("multiscale", "residual, with codebooks at different frame rates", "arXiv:2410.14411"),
        ("grouped", "quantizers side by side, each on its own channels", "arXiv:2305.02765"),
        ("split", "a semantic quantizer beside an acoustic one", "arXiv:2410.00037"),
    ):
        yield QuantizerSpec(
            name=name, factory=f"codecvq.quantizer.compose:{name}", summary=summary, reference=reference
        )

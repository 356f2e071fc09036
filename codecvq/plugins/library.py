"""What the library itself offers, whatever plugins are disabled: the estimator that is every default."""

from __future__ import annotations

from collections.abc import Iterable

from codecvq.api.hookspecs import EstimatorSpec, hookimpl


@hookimpl
def codecvq_estimators() -> Iterable[EstimatorSpec]:
    """Offer `ste`."""
    yield EstimatorSpec(
        name="ste",
        factory="codecvq.quantizer.estimators:straight_through",
        summary="straight-through: the gradient passes unchanged",
        reference="arXiv:1308.3432",
    )

"""Built-in registrations that cannot be disabled: the default estimator and quantizer compositions."""

from __future__ import annotations

from collections.abc import Iterable

from codecvq.api.hookspecs import EstimatorSpec, QuantizerSpec, hookimpl


@hookimpl
def codecvq_estimators() -> Iterable[EstimatorSpec]:
    """Register `ste`."""
    yield EstimatorSpec(
        name="ste",
        factory="codecvq.quantizer.estimators:straight_through",
        summary="straight-through: the gradient passes unchanged",
        reference="arXiv:1308.3432",
    )


@hookimpl
def codecvq_quantizers() -> Iterable[QuantizerSpec]:
    """Register `residual`, `multiscale`, `grouped` and `split`."""
    for name, summary, reference in (
        (
            "residual",
            "quantizer stages, each quantizes the residual of the previous stages",
            "arXiv:2107.03312",
        ),
        ("multiscale", "residual, with codebooks at different frame rates", "arXiv:2410.14411"),
        ("grouped", "parallel quantizers, each on its own channels", "arXiv:2305.02765"),
        ("split", "a semantic and an acoustic quantizer in parallel", "arXiv:2410.00037"),
    ):
        yield QuantizerSpec(
            name=name, factory=f"codecvq.quantizer.compose:{name}", summary=summary, reference=reference
        )

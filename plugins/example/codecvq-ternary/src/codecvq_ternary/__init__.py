"""Ternary quantization for codecvq, and an example of other things that a plugin can register.

This file imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from codecvq import EstimatorSpec, MetricSpec, QuantizerSpec, RecipeSpec, hookimpl
from codecvq_ternary import loss_table

if TYPE_CHECKING:
    from codecvq import TrainRun


@hookimpl
def codecvq_quantizers() -> Iterable[QuantizerSpec]:
    """Register `ternary`."""
    yield QuantizerSpec(
        name="ternary",
        factory="codecvq_ternary.quantizer:Ternary",
        summary="each latent channel is -1, 0 or 1; in stages, a balanced ternary expansion",
        reference="Knuth, The Art of Computer Programming, vol. 2, section 4.1",
    )


@hookimpl
def codecvq_estimators() -> Iterable[EstimatorSpec]:
    """Register `clipped_ste`."""
    yield EstimatorSpec(
        name="clipped_ste",
        factory="codecvq_ternary.estimator:clipped_straight_through",
        summary="straight-through for inputs in [-1, 1], zero outside",
        reference="arXiv:1602.02830",
    )


@hookimpl
def codecvq_metrics() -> Iterable[MetricSpec]:
    """Register `level_difference`."""
    yield MetricSpec(
        name="level_difference",
        factory="codecvq_ternary.metric:make_level_difference",
        columns=("level_difference",),
        unit="dB",
        higher_is_better=False,
        default=False,
        summary="difference between the levels of the decoded and the original clip",
    )


@hookimpl
def codecvq_recipes() -> Iterable[RecipeSpec]:
    """Register `ternary-smoke`."""
    yield RecipeSpec(
        name="ternary-smoke", factory="ternary-smoke.yaml", summary="five steps of a tiny ternary codec"
    )


@hookimpl
def codecvq_train_start(run: TrainRun) -> None:
    """Create `loss.csv`, or truncate it to the step from which a run resumes."""
    loss_table.begin(run)


@hookimpl
def codecvq_train_logged(run: TrainRun, step: int, scalars: Mapping[str, float]) -> None:
    """Append a row to `loss.csv`."""
    loss_table.add(run, step, scalars)

"""Collection of failures and undefined values, which are excluded from means."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from codecvq.errors import CodecvqError
from codecvq.evaluation.metrics import MetricSet, MetricUndefined
from codecvq.evaluation.result import Failure, Undefined


@dataclass(kw_only=True)
class Exclusions:
    """Clips, and metrics of clips, that failed or have no value."""

    failures: list[Failure] = field(default_factory=list)
    undefined: list[Undefined] = field(default_factory=list)
    first_error: Exception | None = None

    def fail(self, clip: str, stage: str, error: Exception, metric: str = "") -> None:
        """Add a failure. The reason is the text of a CodecvqError, or type and text of another error."""
        reason = str(error) if isinstance(error, CodecvqError) else f"{type(error).__name__}: {error}"
        self.failures.append(Failure(clip, stage, reason, metric))
        self.first_error = self.first_error or error

    def measure(
        self, metrics: MetricSet, clip: str, reference: np.ndarray, decoded: np.ndarray, sample_rate: int
    ) -> dict[str, float]:
        """Return the values of all metrics for one clip, and add metrics without a value to the lists.

        Shapes: both `[S]`.
        """
        values: dict[str, float] = {}
        for metric in metrics.ready:
            try:
                values |= metric.measure(reference, decoded, sample_rate)
            except MetricUndefined as error:
                self.undefined.append(Undefined(clip, metric.name, str(error)))
            except Exception as error:  # third-party metric
                self.fail(clip, "metric", error, metric.name)
        return values

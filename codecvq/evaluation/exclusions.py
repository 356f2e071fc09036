"""What has no place in a mean, and why: kept while clips are measured, shown beside the result."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from codecvq.errors import CodecvqError
from codecvq.evaluation.metrics import MetricSet, MetricUndefined
from codecvq.evaluation.result import Failure, Undefined


@dataclass(kw_only=True)
class Exclusions:
    """Clips, and single metrics of clips, that gave an error or have no value."""

    failures: list[Failure] = field(default_factory=list)
    undefined: list[Undefined] = field(default_factory=list)
    first_error: Exception | None = None

    def fail(self, clip: str, stage: str, error: Exception, metric: str = "") -> None:
        """List a failure: a user's error by its text, another with its type."""
        reason = str(error) if isinstance(error, CodecvqError) else f"{type(error).__name__}: {error}"
        self.failures.append(Failure(clip, stage, reason, metric))
        self.first_error = self.first_error or error

    def measure(
        self, metrics: MetricSet, clip: str, reference: np.ndarray, decoded: np.ndarray, sample_rate: int
    ) -> dict[str, float]:
        """Every metric's values for one clip. What has none is listed, as undefined or as failed.

        Shapes: both `[S]`.
        """
        values: dict[str, float] = {}
        for metric in metrics.ready:
            try:
                values |= metric.measure(reference, decoded, sample_rate)
            except MetricUndefined as error:
                self.undefined.append(Undefined(clip, metric.name, str(error)))
            except Exception as error:  # a stranger's metric
                self.fail(clip, "metric", error, metric.name)
        return values

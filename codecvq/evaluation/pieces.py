"""Measurement of long clips in pieces.

Metrics compare whole signals in memory, and some are defined for utterances of seconds only. A clip above
`PIECE_S` is therefore measured in pieces of this length. Its value is the mean over the pieces, weighted by
their duration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from codecvq.evaluation.exclusions import Exclusions
from codecvq.evaluation.metrics import MetricSet
from codecvq.evaluation.result import Failure, Undefined

PIECE_S = 60.0  # seconds; longer clips are coded as a stream, and measured in pieces

Samples = npt.NDArray[np.float32]


class PieceMeasurement:
    """Values of all metrics for one long clip, from its samples and the decoded ones, block by block.

    The last piece has 0.5 to 1.5 times the length of the others. `first_piece` is called with the reference
    and decoded samples `[S]` of the first piece.
    """

    def __init__(
        self,
        metrics: MetricSet,
        clip: str,
        sample_rate: int,
        exclusions: Exclusions,
        first_piece: Callable[[Samples, Samples], Any] | None = None,  # Any: the result is not used
    ) -> None:
        self._metrics, self._clip, self._sample_rate, self._exclusions = (
            metrics, clip, sample_rate, exclusions,
        )  # fmt: skip
        self._first_piece = first_piece
        self._own = Exclusions()  # of the pieces
        self._piece = round(PIECE_S * sample_rate)
        self._reference: list[Samples] = []
        self._decoded: list[Samples] = []
        self._waiting = 0  # samples in both lists
        self._sums: dict[str, float] = {}  # column -> values times samples
        self._weights: dict[str, int] = {}  # column -> samples
        self.samples = 0
        self.pieces = 0

    def add(self, reference: Samples, decoded: Samples) -> None:
        """Add samples `[n]` of the clip and the decoded ones, and measure the pieces that are complete."""
        self._reference.append(reference)
        self._decoded.append(decoded)
        self.samples += reference.size
        self._waiting += reference.size
        while self._waiting >= self._piece + self._piece // 2:
            self._measure(self._piece)

    def finish(self) -> dict[str, float]:
        """Measure the rest, and return the values of the clip, without metrics that failed.

        Adds failures and undefined values of the clip to the exclusions. A metric fails if it fails for a
        piece, and is undefined if it is undefined for all pieces.
        """
        if self._waiting:
            self._measure(self._waiting)
        failed = {failure.metric: failure.reason for failure in reversed(self._own.failures)}
        undefined = {entry.metric: entry.reason for entry in reversed(self._own.undefined)}
        values: dict[str, float] = {}
        for metric in self._metrics.ready:
            defined = [column for column in metric.spec.columns if column in self._weights]
            if metric.name in failed:
                self._exclusions.failures.append(
                    Failure(self._clip, "metric", failed[metric.name], metric.name)
                )
            elif not defined:
                self._exclusions.undefined.append(Undefined(self._clip, metric.name, undefined[metric.name]))
            else:
                values |= {column: self._sums[column] / self._weights[column] for column in defined}
        return values

    def _measure(self, samples: int) -> None:
        whole, whole_decoded = np.concatenate(self._reference), np.concatenate(self._decoded)
        self._reference, self._decoded = [whole[samples:].copy()], [whole_decoded[samples:].copy()]
        self._waiting -= samples
        reference, decoded = whole[:samples], whole_decoded[:samples]
        if self.pieces == 0 and self._first_piece is not None:
            self._first_piece(reference, decoded)
        self.pieces += 1
        values = self._own.measure(self._metrics, self._clip, reference, decoded, self._sample_rate)
        for column, value in values.items():
            self._sums[column] = self._sums.get(column, 0.0) + value * samples
            self._weights[column] = self._weights.get(column, 0) + samples

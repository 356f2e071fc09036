"""Training curves, read from the `metrics.jsonl` of a run folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = "metrics.jsonl"
#: Order of the curves by prefix; other keys follow, sorted by name.
ORDER = ("validation/", "loss/total", "loss", "codebook", "quantizer", "learning_rate", "gradient")


MAX_STEP = 2**53  # float64 represents all integers up to here
MAX_VALUE = 1e100  # limit for values, so that differences stay finite


@dataclass(frozen=True)
class Curve:
    """One logged scalar over the training steps."""

    name: str
    steps: tuple[int, ...]  # ascending
    values: tuple[float, ...]  # finite
    num_excluded: int = 0  # number of values that were NaN, infinite or beyond MAX_VALUE


@dataclass(frozen=True)
class TrainingLog:
    """All curves of a `metrics.jsonl`, in the order of the report."""

    curves: tuple[Curve, ...] = ()
    damaged_lines: int = 0  # a killed run may leave an incomplete line


def read_log(path: Path) -> TrainingLog:
    """Read the curves of a file; returns no curves if there is no file.

    If a step occurs twice, as after a resume, the later value counts. Invalid lines, and values that are not
    finite or beyond 1e100, are skipped and counted. Scalars with fewer than two values have no curve.
    """
    values: dict[str, dict[int, float]] = {}
    damaged = 0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            step = int(record["step"])
            if abs(step) > MAX_STEP:
                raise ValueError(f"step {step}")
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            damaged += 1
            continue
        for name, value in record.items():
            if name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
                values.setdefault(name, {})[step] = float(value) if abs(value) < MAX_VALUE else math.inf
    curves = [_curve(name, points) for name, points in values.items()]
    return TrainingLog(tuple(sorted((c for c in curves if len(c.steps) > 1), key=_rank)), damaged)


def _curve(name: str, points: Mapping[int, float]) -> Curve:
    finite = sorted((step, value) for step, value in points.items() if math.isfinite(value))
    return Curve(name, tuple(s for s, _ in finite), tuple(v for _, v in finite), len(points) - len(finite))


def _rank(curve: Curve) -> tuple[int, str]:
    places = [place for place, prefix in enumerate(ORDER) if curve.name.startswith(prefix)]
    return (places[0] if places else len(ORDER), curve.name)

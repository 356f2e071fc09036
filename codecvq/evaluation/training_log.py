"""The curves of a training, read from a run folder's `metrics.jsonl`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = "metrics.jsonl"
#: What a reader wants first; keys that begin with something else come after, by name.
ORDER = ("validation/", "loss/total", "loss", "codebook", "quantizer", "learning_rate", "gradient")


MAX_STEP = 2**53  # float64 tells all steps apart up to here
MAX_VALUE = 1e100  # values of a curve, so that their differences can be computed


@dataclass(frozen=True)
class Curve:
    """One logged scalar over the steps of a training."""

    name: str
    steps: tuple[int, ...]  # ascending
    values: tuple[float, ...]  # finite
    num_excluded: int = 0  # values that were NaN, infinite or beyond MAX_VALUE


@dataclass(frozen=True)
class TrainingLog:
    """Every curve of a `metrics.jsonl`, in the order of a report."""

    curves: tuple[Curve, ...] = ()
    damaged_lines: int = 0  # a training that is killed may leave half a line


def read_log(path: Path) -> TrainingLog:
    """The curves in the file; none where there is no file. After a resume the later value of a step holds.
    Lines that are no record of a step, and values beyond 1e100, are left out and counted.
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

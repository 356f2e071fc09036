"""The result of a comparison: all clips of all codecs, means with intervals, and real bit rates."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codecvq.errors import CodecvqError
from codecvq.escaping import csv_cell, markdown
from codecvq.evaluation.interval import Mean, mean_of
from codecvq.evaluation.loss_chart import loss_svg
from codecvq.evaluation.machine import Machine
from codecvq.evaluation.packet_loss import PacketLoss
from codecvq.evaluation.result import Column, Failure, Undefined, format_value
from codecvq.files import write_atomically

FORMAT = 1  # format version of comparison.json
FILE, CSV_FILE, TABLE_FILE = "comparison.json", "clips.csv", "comparison.md"
LOSS_FILE = "loss.svg"
ALL = "all"  # name of the group of all clips


@dataclass(frozen=True, kw_only=True)
class ComparedClip:
    """The result of one clip with one codec."""

    id: str
    group: str  # empty without groups
    duration_s: float
    payload_bits: int
    values: Mapping[str, float]  # column -> value; without undefined values
    pieces: int = 1  # measured one by one; above 1, values are means over the pieces


@dataclass(frozen=True, kw_only=True)
class ComparedCodec:
    """All results of one codec."""

    name: str
    identity: Mapping[str, Any]  # Any: JSON
    without_loss: str = ""  # name of the codec without loss; empty if it is this one
    loss: PacketLoss | None = None
    rows: tuple[ComparedClip, ...]
    failures: tuple[Failure, ...] = ()
    undefined: tuple[Undefined, ...] = ()
    trained_on: tuple[str, ...] | None = None  # ids of rows in the training split of the codec; None: unknown

    def training_overlap(self, group: str = ALL) -> str:
        """Return how many clips of a group it was trained on, as "8 of 24"; "?" if unknown."""
        if self.trained_on is None:
            return "?"
        rows = self.in_group(group)
        return f"{sum(row.id in self.trained_on for row in rows)} of {len(rows)}"

    def in_group(self, group: str = ALL) -> tuple[ComparedClip, ...]:
        """Return the results of one group."""
        return tuple(row for row in self.rows if group in (ALL, row.group))

    def bitrate_bps(self, group: str = ALL) -> float | None:
        """Return payload bits divided by duration, in bit/s; None without clips."""
        rows = self.in_group(group)
        return sum(row.payload_bits for row in rows) / sum(row.duration_s for row in rows) if rows else None

    def mean(self, column: str, group: str = ALL) -> Mean:
        """Return the mean and interval of a column over the clips of the group that have a value."""
        return mean_of([row.values[column] for row in self.in_group(group) if column in row.values])


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of `compare`. `save` writes it to files; `table` summarizes it."""

    created: str  # UTC, ISO 8601
    data: str  # name of the corpus
    sample_rate: int  # Hz, of the measurement
    group_by: str  # column of the groups; empty without groups
    clips_given: int
    columns: tuple[Column, ...]
    codecs: tuple[ComparedCodec, ...]
    absent: Mapping[str, str] = field(default_factory=dict)  # codec that is not installed -> what to do
    unavailable: Mapping[str, str] = field(
        default_factory=dict
    )  # default metric that was not computed -> reason
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Machine

    @property
    def groups(self) -> tuple[str, ...]:
        """`ALL`, followed by the groups if there are several."""
        groups = sorted({row.group for codec in self.codecs for row in codec.rows})
        return (ALL, *groups) if len(groups) > 1 else (ALL,)

    def codec(self, name: str) -> ComparedCodec:
        """Return the codec with that name; raises CodecvqError for an unknown name."""
        matches = [codec for codec in self.codecs if codec.name == name]
        if not matches:
            known = ", ".join(codec.name for codec in self.codecs)
            raise CodecvqError(f"codec {name!r} is not part of the comparison; the codecs are {known}.")
        return matches[0]

    def difference(self, name: str, other: str, column: str, group: str = ALL) -> Mean:
        """Return the mean over clips of (value of `name` - value of `other`), with its interval.

        Scores differ more between clips than between codecs. This paired
        interval is therefore much narrower than the intervals of
        the two means, and can separate two codecs whose intervals overlap.
        """
        other_values = {
            row.id: row.values for row in self.codec(other).in_group(group) if column in row.values
        }
        rows = [
            row for row in self.codec(name).in_group(group) if column in row.values and row.id in other_values
        ]
        return mean_of([row.values[column] - other_values[row.id][column] for row in rows])

    def table(self, group: str = ALL, against: str | None = None) -> list[list[str]]:
        """Return one row of text per codec: name, kbit/s, and the mean of each column with its interval.

        With `against`, contains the differences to that codec instead of the means. If a codec was trained on
        some of the clips, a column shows their number for each codec.
        """
        return [
            [
                codec.name,
                _kbps(codec.bitrate_bps(group)),
                *self._training_overlap(codec, group),
                *self._cells(codec, group, against),
            ]
            for codec in self.codecs
            if codec.name != against
        ]

    def loss_curves(self, column: str) -> dict[str, list[tuple[float, float]]]:
        """Return the points (percent of lost packets, mean of a column) of each codec that lost packets."""
        curves: dict[str, list[tuple[float, float]]] = {
            codec.without_loss: [] for codec in self.codecs if codec.loss is not None
        }
        for codec in self.codecs:
            points = curves.get(codec.without_loss or codec.name)
            mean = codec.mean(column).value
            if points is not None and mean is not None:
                points.append((codec.loss.percent if codec.loss else 0.0, mean))
        return {name: sorted(points) for name, points in curves.items()}

    def header(self) -> list[str]:
        """Return the header of `table`; an arrow at each metric shows which direction is better."""
        arrows = [f"{column.name} {'↑' if column.higher_is_better else '↓'}" for column in self.columns]
        return ["codec", "kbit/s", *(["trained on"] if self._any_training_overlap() else []), *arrows]

    def _any_training_overlap(self) -> bool:
        return any(codec.trained_on for codec in self.codecs)

    def _training_overlap(self, codec: ComparedCodec, group: str) -> list[str]:
        return [codec.training_overlap(group)] if self._any_training_overlap() else []

    def _cells(self, codec: ComparedCodec, group: str, against: str | None) -> list[str]:
        total = len(codec.in_group(group))
        cells = []
        for column in self.columns:
            if against is None:
                mean = codec.mean(column.name, group)
            else:
                mean = self.difference(codec.name, against, column.name, group)
            cells.append(_cell(mean, column.unit, total, signed=against is not None))
        return cells

    def markdown(self, against: str | None = None) -> str:
        """Return the tables of all groups as Markdown, for example for a model card."""
        lines = []
        for group in self.groups:
            clips = max(len(codec.in_group(group)) for codec in self.codecs)
            minus = f", minus {against}" if against else ""
            lines += [markdown(f"{self.data}, {group}: {clips} clips{minus}; mean (95 % interval)"), ""]
            lines += [_line(self.header()), _line(["---"] * len(self.header()))]
            lines += [*(_line(row) for row in self.table(group, against)), ""]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Return this comparison as JSON data, including the means of each group."""
        data = dataclasses.asdict(self)
        for codec, entry in zip(self.codecs, data["codecs"], strict=True):
            entry["groups"] = {
                group: {
                    "clips": len(codec.in_group(group)),
                    "bitrate_bps": codec.bitrate_bps(group),
                    "means": {c.name: dataclasses.asdict(codec.mean(c.name, group)) for c in self.columns},
                }
                for group in self.groups
            }
        return {"format": FORMAT, **data}

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `comparison.json`, `clips.csv` and `comparison.md` to `folder`; returns the JSON path.

        If packets were lost, `loss.svg` shows the quality over the loss.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_json(), ensure_ascii=False, indent=1, allow_nan=False)
        write_atomically(folder / FILE, text + "\n")  # first, because it contains all results
        write_atomically(folder / CSV_FILE, self._csv())
        write_atomically(folder / TABLE_FILE, self.markdown())
        if any(codec.loss for codec in self.codecs):
            panels = [(column, self.loss_curves(column.name)) for column in self.columns]
            write_atomically(folder / LOSS_FILE, loss_svg(panels))
        return folder / FILE

    def _csv(self) -> str:
        """Return one line per codec and clip; an undefined value is an empty cell."""
        names = [column.name for column in self.columns]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["codec", "id", "group", "duration_s", "payload_bits", *map(csv_cell, names)])
        for codec in self.codecs:
            for row in codec.rows:
                values = [row.values.get(name, "") for name in names]
                names_of = [csv_cell(text) for text in (codec.name, row.id, row.group)]
                writer.writerow([*names_of, row.duration_s, row.payload_bits, *values])
        return out.getvalue()


def _kbps(bitrate_bps: float | None) -> str:
    return "–" if bitrate_bps is None else f"{bitrate_bps / 1000:.2f}"


def _cell(mean: Mean, unit: str, clips: int, signed: bool) -> str:
    """Return a cell such as "1.85 (1.70 – 2.01)", with n if some clips have no value."""
    if mean.value is None:
        return "–"
    sign = "+" if signed and mean.value >= 0 else ""
    text = sign + format_value(mean.value, unit)
    if mean.low is not None and mean.high is not None:
        text += f" ({format_value(mean.low, unit)} – {format_value(mean.high, unit)})"
    return text if mean.n == clips else f"{text}, n={mean.n}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(markdown, cells))} |"

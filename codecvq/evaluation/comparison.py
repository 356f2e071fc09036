"""What a comparison of codecs found: every clip of every codec, the means with intervals, the real rates."""

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
from codecvq.evaluation.machine import Machine
from codecvq.evaluation.result import Column, Failure, Undefined, format_value
from codecvq.files import write_atomically

FORMAT = 1  # of comparison.json
FILE, CSV_FILE, TABLE_FILE = "comparison.json", "clips.csv", "comparison.md"
ALL = "all"  # what the table of all groups together is called


@dataclass(frozen=True, kw_only=True)
class ComparedClip:
    """One clip that went through one codec."""

    id: str
    group: str  # empty where clips are not grouped
    duration_s: float
    payload_bits: int
    values: Mapping[str, float]  # column -> value; one that is undefined for this clip is not there


@dataclass(frozen=True, kw_only=True)
class ComparedCodec:
    """All clips of one codec."""

    name: str
    identity: Mapping[str, Any]  # Any: JSON
    rows: tuple[ComparedClip, ...]
    failures: tuple[Failure, ...] = ()
    undefined: tuple[Undefined, ...] = ()
    trained_on: tuple[str, ...] | None = None  # ids of rows that it was trained on; None: not known

    def training_overlap(self, group: str = ALL) -> str:
        """How many clips of a group it was trained on, "8 of 24"; "?" where that is not known."""
        if self.trained_on is None:
            return "?"
        rows = self.in_group(group)
        return f"{sum(row.id in self.trained_on for row in rows)} of {len(rows)}"

    def in_group(self, group: str = ALL) -> tuple[ComparedClip, ...]:
        """The clips of one group."""
        return tuple(row for row in self.rows if group in (ALL, row.group))

    def bitrate_bps(self, group: str = ALL) -> float | None:
        """All payload bits over the whole duration; None where there is no clip."""
        rows = self.in_group(group)
        return sum(row.payload_bits for row in rows) / sum(row.duration_s for row in rows) if rows else None

    def mean(self, column: str, group: str = ALL) -> Mean:
        """The mean of a column over the group's clips that have a value, with its interval."""
        return mean_of([row.values[column] for row in self.in_group(group) if column in row.values])


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of `compare`: codecs over the same clips; `save` writes it, `table` is its summary."""

    created: str  # UTC, ISO 8601
    data: str  # what the corpus is called
    sample_rate: int  # Hz, at which all codecs were measured
    group_by: str  # the column that the groups come from; empty where clips are not grouped
    clips_given: int
    columns: tuple[Column, ...]
    codecs: tuple[ComparedCodec, ...]
    absent: Mapping[str, str] = field(default_factory=dict)  # codecs that are not installed -> what to do
    unavailable: Mapping[str, str] = field(default_factory=dict)  # default metrics that were not run -> why
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Machine

    @property
    def groups(self) -> tuple[str, ...]:
        """`ALL`, and each group where there are several."""
        found = sorted({row.group for codec in self.codecs for row in codec.rows})
        return (ALL, *found) if len(found) > 1 else (ALL,)

    def codec(self, name: str) -> ComparedCodec:
        """The codec of that name."""
        found = [codec for codec in self.codecs if codec.name == name]
        if not found:
            known = ", ".join(codec.name for codec in self.codecs)
            raise CodecvqError(f"no codec {name!r} was compared; there are {known}.")
        return found[0]

    def difference(self, name: str, other: str, column: str, group: str = ALL) -> Mean:
        """The mean over clips of (value of `name` - value of `other`), with its interval.

        Clips differ more than codecs do: this interval, of the same clips under both, is much narrower than
        the two means' own, and says whether one codec is better where those overlap.
        """
        theirs = {row.id: row.values for row in self.codec(other).in_group(group) if column in row.values}
        ours = [row for row in self.codec(name).in_group(group) if column in row.values and row.id in theirs]
        return mean_of([row.values[column] - theirs[row.id][column] for row in ours])

    def table(self, group: str = ALL, against: str | None = None) -> list[list[str]]:
        """A line of text for each codec: name, kbit/s, and each column's mean with its interval.

        With `against`, the differences to that codec instead of the means. Where a codec was trained on some
        of the clips, a column says for each on how many.
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

    def header(self) -> list[str]:
        """The names above `table`, an arrow at each that says which way is better."""
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
        """The tables of all groups as Markdown, for a model card."""
        lines = []
        for group in self.groups:
            clips = max(len(codec.in_group(group)) for codec in self.codecs)
            minus = f", minus {against}" if against else ""
            lines += [markdown(f"{self.data}, {group}: {clips} clips{minus}; mean (95 % interval)"), ""]
            lines += [_line(self.header()), _line(["---"] * len(self.header()))]
            lines += [*(_line(row) for row in self.table(group, against)), ""]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """This comparison as JSON data, the means of each group written out."""
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
        """The path of `comparison.json`, written into `folder` with `clips.csv` and `comparison.md`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_json(), ensure_ascii=False, indent=1, allow_nan=False)
        write_atomically(folder / FILE, text + "\n")  # first: it holds all
        write_atomically(folder / CSV_FILE, self._csv())
        write_atomically(folder / TABLE_FILE, self.markdown())
        return folder / FILE

    def _csv(self) -> str:
        """One line a codec and clip; an undefined value is an empty cell."""
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
    """ "1.85 (1.70 – 2.01)", with how many clips have a value where not all have."""
    if mean.value is None:
        return "–"
    sign = "+" if signed and mean.value >= 0 else ""
    text = sign + format_value(mean.value, unit)
    if mean.low is not None and mean.high is not None:
        text += f" ({format_value(mean.low, unit)} – {format_value(mean.high, unit)})"
    return text if mean.n == clips else f"{text}, n={mean.n}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(markdown, cells))} |"

"""What an evaluation found: every clip, the means with intervals, the bit rates, what was left out."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from codecvq.errors import CodecvqError
from codecvq.escaping import csv_cell
from codecvq.evaluation.bitrate import Bitrate, CodebookStats, FileBytes
from codecvq.evaluation.interval import Mean
from codecvq.evaluation.machine import Machine
from codecvq.files import write_atomically

FORMAT = 1  # of evaluation.json
FILE = "evaluation.json"
CSV_FILE = "clips.csv"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One value that a metric gives for a clip."""

    name: str
    metric: str
    unit: str = ""
    higher_is_better: bool = True
    summary: str = ""
    reference: str = ""


@dataclass(frozen=True, kw_only=True)
class ClipRow:
    """One clip that was encoded and decoded."""

    id: str
    path: str
    text: str = ""
    speaker: str = ""
    language: str = ""
    duration_s: float
    num_samples: int  # at the codec's sample rate; the decoded clip has exactly as many
    num_frames: int
    encode_s: float
    decode_s: float
    values: Mapping[str, float]  # column -> value; a column that is undefined for this clip is not there
    files: FileBytes | None = None
    original_audio: str = ""  # file under the evaluation's audio_dir; empty when none was written
    decoded_audio: str = ""


@dataclass(frozen=True)
class Failure:
    """A clip, or one metric of a clip, that gave an error instead of a result."""

    clip: str
    stage: str  # "read", "codec", "length", "finite", "file", "metric", "audio"
    reason: str
    metric: str = ""

    def __str__(self) -> str:
        return f"{self.clip} ({self.metric or self.stage}): {self.reason}"


@dataclass(frozen=True)
class Undefined:
    """A clip for which a metric has no value."""

    clip: str
    metric: str
    reason: str


class TableRow(NamedTuple):
    """A line of the short table: text, ready to be printed."""

    name: str
    value: str
    unit: str
    interval: str  # 95 %; empty where there is none
    n: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of `evaluate`; `save` writes it, `load` reads it back, `table` is its summary."""

    created: str  # UTC, ISO 8601
    codec: Mapping[str, Any]  # Any: the identity of a codec, as JSON has it
    columns: tuple[Column, ...]
    rows: tuple[ClipRow, ...]
    means: Mapping[str, Mean]  # column -> over all clips
    groups: Mapping[
        str, Mapping[str, Mapping[str, Mean]]
    ]  # "speaker" | "language" -> which -> column -> mean
    bitrate: Bitrate
    encode_rtf: float  # seconds of computing for a second of audio: below 1 is faster than real time
    decode_rtf: float
    clips_given: int  # how many were to be evaluated: rows and those of `failures` that have no row
    failures: tuple[Failure, ...] = ()
    undefined: tuple[Undefined, ...] = ()
    unavailable: Mapping[str, str] = dataclasses.field(default_factory=dict)  # default metrics not run -> why
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of codecvq, torch and all used
    machine: Machine
    audio_dir: Path | None = None  # where the rows' audio files are
    trained_on: tuple[str, ...] | None = None  # ids of rows that the codec was trained on; None: not known

    @property
    def exact_lengths(self) -> int:
        """How many of the decoded clips had exactly the original's samples."""
        return self.decoded - sum(failure.stage == "length" for failure in self.failures)

    @property
    def decoded(self) -> int:
        """How many clips were decoded: those measured, and those of another length or not finite."""
        return len(self.rows) + sum(failure.stage in ("length", "finite") for failure in self.failures)

    def audio(self, row: ClipRow) -> tuple[Path, Path] | None:
        """The original and the decoded audio of a clip, if they were written. Names that lead out of the
        audio's folder are passed over.
        """
        names = (row.original_audio, row.decoded_audio)
        if self.audio_dir is None or not all(name and name == Path(name).name for name in names):
            return None
        return self.audio_dir / row.original_audio, self.audio_dir / row.decoded_audio

    def table(self) -> list[TableRow]:
        """The summary that a terminal shows: metrics, the leading ones first, then rates and speed."""
        rows = [_metric_row(column, self.means[column.name], len(self.rows)) for column in self.columns]
        rate, clips = self.bitrate, str(len(self.rows))
        rates = {
            "bit rate, nominal": rate.nominal_bps,
            "bit rate, entropy": rate.entropy_bps,
            "bit rate, .cvq payload": rate.packed_payload_bps,
            "bit rate, .cvq payload, entropy-coded": rate.entropy_payload_bps,
            "bit rate, .cvq whole file": rate.packed_file_bps,
        }
        rows += [
            TableRow(name, f"{bps / 1000:.3f}", "kbit/s", "", clips)
            for name, bps in rates.items()
            if bps is not None
        ]
        for name, factor in (("encode", self.encode_rtf), ("decode", self.decode_rtf)):
            rows.append(TableRow(f"{name}, real-time factor", f"{factor:.4f}", "s per s", "", clips))
        rows.append(TableRow("exact lengths", str(self.exact_lengths), f"of {self.decoded} decoded", "", ""))
        if self.trained_on:
            rows.append(
                TableRow("clips of its training", str(len(self.trained_on)), f"of {len(self.rows)}", "", "")
            )
        return rows

    def to_json(self, relative_to: Path | None = None) -> dict[str, Any]:  # Any: JSON
        """This evaluation as JSON data; the audio's folder is relative to `relative_to`: both can move."""
        data = dataclasses.asdict(self)
        if self.audio_dir is not None:
            data["audio_dir"] = (
                os.path.relpath(self.audio_dir, relative_to) if relative_to else str(self.audio_dir)
            )
        return {"format": FORMAT, **data}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], relative_to: Path | None = None) -> Evaluation:
        """The evaluation that `to_json` gave."""
        if data["format"] != FORMAT:
            raise CodecvqError(
                f"an evaluation has format {data['format']!r}, this codecvq reads {FORMAT}. "
                f"Evaluate again, or update codecvq."
            )
        fields = {name: value for name, value in data.items() if name != "format"}
        fields |= {
            "columns": tuple(Column(**column) for column in data["columns"]),
            "rows": tuple(_row_from_json(row) for row in data["rows"]),
            "means": _means_from_json(data["means"]),
            "groups": {
                kind: {group: _means_from_json(means) for group, means in groups.items()}
                for kind, groups in data["groups"].items()
            },
            "bitrate": _bitrate_from_json(data["bitrate"]),
            "failures": tuple(Failure(**failure) for failure in data["failures"]),
            "undefined": tuple(Undefined(**undefined) for undefined in data["undefined"]),
            "machine": Machine(**data["machine"]),
            "audio_dir": (relative_to or Path()) / data["audio_dir"] if data["audio_dir"] else None,
            "trained_on": None if data.get("trained_on") is None else tuple(data["trained_on"]),
        }
        return cls(**fields)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """The path of `evaluation.json`, written into `folder` with `clips.csv` beside it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # allow_nan=False: NaN is not JSON, and every number here is checked to be finite before it gets in.
        text = json.dumps(self.to_json(folder), ensure_ascii=False, indent=1, allow_nan=False)
        write_atomically(folder / FILE, text + "\n")  # first: it holds all
        write_atomically(folder / CSV_FILE, self._csv())
        return folder / FILE

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Evaluation:
        """The evaluation in `folder`, or in the file itself."""
        path = Path(folder)
        path = path / FILE if path.is_dir() else path
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")), path.parent)
        except OSError as error:
            raise CodecvqError(
                f"no evaluation at {path} ({error.strerror}). Make one with: codecvq evaluate"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise CodecvqError(
                f"{path} is not an evaluation of codecvq: {error}. Make it again with: codecvq evaluate"
            ) from error

    def _csv(self) -> str:
        """One line a clip; an undefined value is an empty cell, with its reason in the last column."""
        reasons: dict[str, list[str]] = {}
        excluded: list[Undefined | Failure] = [*self.undefined, *(f for f in self.failures if f.metric)]
        for finding in excluded:
            reasons.setdefault(finding.clip, []).append(f"{finding.metric}: {finding.reason}")
        names = [column.name for column in self.columns]
        plain = [
            "id",
            "path",
            "speaker",
            "language",
            "duration_s",
            "num_samples",
            "num_frames",
            "encode_s",
            "decode_s",
        ]
        sizes = [field.name for field in dataclasses.fields(FileBytes)]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([*plain, *sizes, *map(csv_cell, names), "text", "left_out"])
        for row in self.rows:
            files = [getattr(row.files, name, "") for name in sizes]
            values = [row.values.get(name, "") for name in names]
            cells = [
                *(getattr(row, name) for name in plain),
                *files,
                *values,
                row.text,
                "; ".join(reasons.get(row.id, [])),
            ]
            writer.writerow(csv_cell(cell) if isinstance(cell, str) else cell for cell in cells)
        return out.getvalue()


def format_value(value: float, unit: str) -> str:
    """A metric's value with as many decimals as its unit deserves."""
    return f"{value:.2f}" if unit in ("dB", "MOS-LQO") else f"{value:.3f}"


def _metric_row(column: Column, mean: Mean, clips: int) -> TableRow:
    if mean.value is None:
        return TableRow(column.name, "–", column.unit, "", f"0 of {clips}")
    interval = ""
    if mean.low is not None and mean.high is not None:
        interval = f"{format_value(mean.low, column.unit)} – {format_value(mean.high, column.unit)}"
    n = str(mean.n) if mean.n == clips else f"{mean.n} of {clips}"
    return TableRow(column.name, format_value(mean.value, column.unit), column.unit, interval, n)


def _means_from_json(data: Mapping[str, Mapping[str, Any]]) -> dict[str, Mean]:
    return {column: Mean(**mean) for column, mean in data.items()}


def _row_from_json(data: Mapping[str, Any]) -> ClipRow:
    return ClipRow(**{**data, "files": FileBytes(**data["files"]) if data["files"] else None})


def _bitrate_from_json(data: Mapping[str, Any]) -> Bitrate:
    codebooks: Sequence[Mapping[str, Any]] = data["codebooks"]
    return Bitrate(**{**data, "codebooks": tuple(CodebookStats(**use) for use in codebooks)})

"""The result of an evaluation: all clips, means with intervals, bit rates, and excluded values."""

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

FORMAT = 1  # format version of evaluation.json
FILE = "evaluation.json"
CSV_FILE = "clips.csv"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One value of a metric. A metric can have several columns."""

    name: str
    metric: str
    unit: str = ""
    higher_is_better: bool = True
    summary: str = ""
    reference: str = ""


@dataclass(frozen=True, kw_only=True)
class ClipRow:
    """The result of one clip."""

    id: str
    path: str
    text: str = ""
    speaker: str = ""
    language: str = ""
    duration_s: float
    num_samples: int  # at the codec's sample rate; equal for original and decoded clip
    num_frames: int
    encode_s: float
    decode_s: float
    values: Mapping[str, float]  # column -> value; without undefined values
    pieces: int = 1  # measured one by one; above 1, values are means over the pieces
    files: FileBytes | None = None
    original_audio: str = ""  # file name in the evaluation's audio_dir; empty without audio
    decoded_audio: str = ""


@dataclass(frozen=True)
class Failure:
    """An error of a clip, or of one metric of a clip."""

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
    """A line of the summary table, as text."""

    name: str
    value: str
    unit: str
    interval: str  # 95 %; may be empty
    n: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of `evaluate`. `save` and `load` use files; `table` summarizes it."""

    created: str  # UTC, ISO 8601
    codec: Mapping[str, Any]  # Any: the identity of a codec as JSON data
    columns: tuple[Column, ...]
    rows: tuple[ClipRow, ...]
    means: Mapping[str, Mean]  # column -> over all clips
    groups: Mapping[
        str, Mapping[str, Mapping[str, Mean]]
    ]  # "speaker" | "language" -> its name -> column -> mean
    bitrate: Bitrate
    encode_rtf: float  # seconds of computation per second of audio; below 1 is faster than real time
    decode_rtf: float
    clips_given: int  # rows plus clips that failed completely
    failures: tuple[Failure, ...] = ()
    undefined: tuple[Undefined, ...] = ()
    unavailable: Mapping[str, str] = dataclasses.field(
        default_factory=dict
    )  # default metric -> why it was skipped
    versions: Mapping[str, str] = dataclasses.field(
        default_factory=dict
    )  # of codecvq, torch and metric packages
    machine: Machine
    audio_dir: Path | None = None  # folder of the audio files
    trained_on: tuple[str, ...] | None = None  # ids of rows in the training split of the codec; None: unknown

    @property
    def exact_lengths(self) -> int:
        """The number of decoded clips with exactly the length of the original."""
        return self.decoded - sum(failure.stage == "length" for failure in self.failures)

    @property
    def decoded(self) -> int:
        """The number of decoded clips, including clips with a wrong length or non-finite samples."""
        return len(self.rows) + sum(failure.stage in ("length", "finite") for failure in self.failures)

    def audio(self, row: ClipRow) -> tuple[Path, Path] | None:
        """Return the paths of original and decoded audio of a clip, or None.

        Returns None if they were not written, or if a name points outside the audio folder.
        """
        names = (row.original_audio, row.decoded_audio)
        if self.audio_dir is None or not all(name and name == Path(name).name for name in names):
            return None
        return self.audio_dir / row.original_audio, self.audio_dir / row.decoded_audio

    def table(self) -> list[TableRow]:
        """Return the summary for a terminal: metrics, bit rates and speed."""
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
                TableRow(
                    "clips in the training split", str(len(self.trained_on)), f"of {len(self.rows)}", "", ""
                )
            )
        return rows

    def to_json(self, relative_to: Path | None = None) -> dict[str, Any]:  # Any: JSON
        """Return this evaluation as JSON data; the audio folder is stored relative to `relative_to`."""
        data = dataclasses.asdict(self)
        if self.audio_dir is not None:
            data["audio_dir"] = (
                os.path.relpath(self.audio_dir, relative_to) if relative_to else str(self.audio_dir)
            )
        return {"format": FORMAT, **data}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], relative_to: Path | None = None) -> Evaluation:
        """Return the evaluation from the output of `to_json`; raises CodecvqError for another format."""
        if data["format"] != FORMAT:
            raise CodecvqError(
                f"an evaluation has format {data['format']!r}, but this codecvq reads format {FORMAT}. "
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
        """Write `evaluation.json` and `clips.csv` to `folder`; returns the JSON path."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # allow_nan=False: NaN is not valid JSON; all values were checked to be finite.
        text = json.dumps(self.to_json(folder), ensure_ascii=False, indent=1, allow_nan=False)
        write_atomically(folder / FILE, text + "\n")  # first, because it contains all results
        write_atomically(folder / CSV_FILE, self._csv())
        return folder / FILE

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Evaluation:
        """Read an evaluation from a folder or from its JSON file; raises CodecvqError if that fails."""
        path = Path(folder)
        path = path / FILE if path.is_dir() else path
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")), path.parent)
        except OSError as error:
            raise CodecvqError(
                f"no evaluation at {path} ({error.strerror}). Create one with: codecvq evaluate"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise CodecvqError(
                f"{path} is not an evaluation of codecvq: {error}. Create it again with: codecvq evaluate"
            ) from error

    def _csv(self) -> str:
        """Return one line per clip; an undefined value is an empty cell, with a reason in the last column."""
        reasons: dict[str, list[str]] = {}
        excluded: list[Undefined | Failure] = [*self.undefined, *(f for f in self.failures if f.metric)]
        for exclusion in excluded:
            reasons.setdefault(exclusion.clip, []).append(f"{exclusion.metric}: {exclusion.reason}")
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
    """Return a value as text, with two decimals for dB and MOS-LQO, else three."""
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

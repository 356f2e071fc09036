"""The columns of a manifest row and their meaning.

Times are in seconds. A row with `start` selects a part of its file: `duration` seconds of it, up to `end`, or
up to the end of the file. `end` alone selects a part from the beginning. `duration` alone is the duration of
the whole file. Columns that give a part in milliseconds or samples are rejected: ignoring them would pair the
text with the wrong audio.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from codecvq.errors import CorpusError

Row = Mapping[str, Any]  # Any: JSON values, or strings from a table

#: field of a clip -> accepted column names; the first one that a row has is used
NAMES: dict[str, tuple[str, ...]] = {
    "path": ("path", "audio", "audio_filepath", "file", "file_name"),
    "id": ("id",),
    "text": ("text", "transcript", "transcription", "sentence"),
    "speaker": ("speaker", "speaker_id"),
    "language": ("language", "lang", "locale"),
    "licence": ("licence", "license"),
    "split": ("split",),
    "start": ("start", "start_s", "start_time", "begin", "begin_s", "begin_time", "offset"),
    "end": ("end", "end_s", "end_time", "stop", "stop_time"),
    "duration": ("duration", "duration_s"),
    "channel": ("channel",),
}
_FIELDS = {name: field for field, names in NAMES.items() for name in names}
#: unsupported column names for a part -> what to give instead
UNSUPPORTED_COLUMNS = {
    **dict.fromkeys(("start_ms", "begin_ms", "offset_ms"), "seconds as 'start'"),
    **dict.fromkeys(("end_ms", "stop_ms"), "seconds as 'end'"),
    "duration_ms": "seconds as 'duration'",
    **dict.fromkeys(("start_sample", "start_frame", "frame_offset", "sample_offset"), "seconds as 'start'"),
    **dict.fromkeys(("end_sample", "end_frame"), "seconds as 'end'"),
    **dict.fromkeys(("channel_id", "channel_selector"), "one number from 0 up as 'channel'"),
}
#: other names of the splits
SPLIT_NAMES = {"dev": "validation", "valid": "validation", "val": "validation", "eval": "test"}
ROUNDING_S = 0.05  # permitted difference between end and start + duration
MAX_SECONDS = 1e7  # four months


@dataclass(frozen=True)
class ParsedRow:
    """A validated row: the fields of a clip, and the other columns of the manifest."""

    path: str
    id: str
    text: str
    speaker: str
    language: str
    licence: str
    split: str
    is_part: bool
    start_s: float
    duration_s: float | None
    channel: int | None
    columns: Mapping[str, Any]


def _text(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("text is needed")
    return str(value)


def _path(value: object) -> object:
    """Validate a path, or Hugging Face's `{"path": …}` without embedded audio."""
    if isinstance(value, dict):
        if not isinstance(value.get("path"), str) or any(
            value.get(key) is not None for key in ("bytes", "array")
        ):
            raise ValueError(
                "a path is needed; audio embedded in a manifest is not supported, write it to files"
            )
        value = value["path"]
    if not isinstance(value, str) or not value:
        raise ValueError("a path is needed")
    return value


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("seconds from 0 up are needed")
    return value


Text = Annotated[str, BeforeValidator(_text)]
Seconds = Annotated[float, BeforeValidator(_number), Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]


class _Fields(BaseModel):
    """The columns of a row that become fields of a clip."""

    model_config = ConfigDict(extra="forbid")

    path: Annotated[str, BeforeValidator(_path)]
    id: Text = ""
    text: Text = ""
    speaker: Text = ""
    language: Text = ""
    licence: Text = ""
    split: Text = ""
    start: Seconds | None = None
    end: Seconds | None = None
    duration: Seconds | None = None
    channel: Annotated[int, BeforeValidator(_number), Field(ge=0, lt=1024)] | None = None


def read_row(origin: str, row: Row) -> ParsedRow:
    """Validate a row. Raises CorpusError with a message that starts with `origin`."""
    values, columns = _match_columns(origin, row)
    if "path" not in values:
        raise CorpusError(
            f"{origin}: no column has the path of the audio. The columns are "
            f"{', '.join(map(repr, row))[:300] or 'none'}; rename one to {' or '.join(NAMES['path'])}."
        )
    try:
        fields = _Fields(**{field: value for field, (_, value) in values.items()})
    except ValidationError as error:
        raise CorpusError(_validation_message(origin, values, error)) from None
    start_s, duration_s = _parse_times(origin, fields)
    return ParsedRow(
        path=fields.path,
        id=fields.id,
        text=fields.text,
        speaker=fields.speaker,
        language=fields.language,
        licence=fields.licence,
        split=SPLIT_NAMES.get(fields.split, fields.split),
        is_part=fields.start is not None or fields.end is not None,
        start_s=start_s,
        duration_s=duration_s,
        channel=fields.channel,
        columns=columns,
    )


def _match_columns(origin: str, row: Row) -> tuple[dict[str, tuple[str, Any]], dict[str, Any]]:
    """Return the fields of the clip as {field: (column name, value)}, and the remaining columns."""
    values, columns = dict[str, tuple[str, Any]](), dict(row)
    found: dict[str, list[str]] = {}
    for name, value in row.items():
        if (field := _FIELDS.get(name)) and not _is_missing(value):
            found.setdefault(field, []).append(name)
        elif (name in UNSUPPORTED_COLUMNS and not _is_missing(value)) or (
            name == "channels" and isinstance(value, list)
        ):
            advice = UNSUPPORTED_COLUMNS.get(name, "one number from 0 up as 'channel'")
            raise CorpusError(
                f"{origin}: its column {name!r} is not supported. Give {advice}, or rename the column if "
                "it means something else."
            )
    for field, names in found.items():
        names.sort(key=NAMES[field].index)
        if field in ("start", "end", "duration") and len({str(row[name]) for name in names}) > 1:
            both = " and ".join(f"{name} {row[name]!r}" for name in names[:2])
            raise CorpusError(f"{origin}: it has {both}, which have the same meaning. Remove one of them.")
        values[field] = (names[0], columns.pop(names[0]))
    return values, columns


def _is_missing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _validation_message(origin: str, values: Mapping[str, tuple[str, Any]], error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_context=False)[0]
    field = str(problem["loc"][0])
    name, value = values[field]
    value_text = repr(value)
    value_text = value_text if len(value_text) <= 60 else f"{value_text[:60]}…"
    if field in ("start", "end", "duration"):
        needed = "seconds from 0 up are needed"
    elif field == "channel":
        needed = "a channel number is needed, 0 for the first (rename the column if it has another meaning)"
    else:
        needed = problem["msg"].removeprefix("Value error, ")
    return f"{origin}: {name} is {value_text}, but {needed}."


def _parse_times(origin: str, fields: _Fields) -> tuple[float, float | None]:
    """Return start and duration in seconds. Raises CorpusError if the times of a row are inconsistent."""
    start_s, duration_s = fields.start or 0.0, fields.duration
    if duration_s == 0:
        raise CorpusError(f"{origin}: its duration is 0 s. Leave the column empty to use the whole file.")
    if fields.end is None:
        return start_s, duration_s
    if fields.end <= start_s:
        raise CorpusError(
            f"{origin}: it ends at {fields.end:g} s, which is not after its start at {start_s:g} s."
        )
    if duration_s is not None and abs(start_s + duration_s - fields.end) > ROUNDING_S:
        raise CorpusError(
            f"{origin}: its start at {start_s:g} s, duration of {duration_s:g} s and end at {fields.end:g} s "
            "contradict each other. Remove one of them."
        )
    return start_s, fields.end - start_s

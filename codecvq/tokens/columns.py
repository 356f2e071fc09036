"""Manifest columns of a token dataset: values with valid UTF-8, and the type of each column.

All values are checked before the first clip is read, so that an invalid one cannot stop a job after hours.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codecvq.data.text import utf8_safe
from codecvq.errors import TokensError
from codecvq.tokens.rows import DATASET_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

    from codecvq.data.corpus import Clip

CLIP_COLUMNS = (
    "text",
    "speaker",
    "language",
    "licence",
)  # clip attributes; each becomes a column if any clip has it
MAX_COLUMNS = 1000
MAX_CHARACTERS = 100_000  # per string
BLOCK_CLIPS = 100_000  # clips per block; the values of one block are in memory
MAX_DEPTH = 20  # nesting of lists and objects


def column_values(clip: Clip) -> dict[str, Any]:  # Any: a manifest's values
    """Return the extra columns of a clip's row.

    These are the manifest columns, and `text`, `speaker`, `language` and `licence` if the clip has them.
    Raises TokensError for a value that is too long or nested too deeply.
    """
    attributes = {name: getattr(clip, name) for name in CLIP_COLUMNS if getattr(clip, name)}
    return {
        utf8_safe(name): _value(clip, name, value) for name, value in {**clip.columns, **attributes}.items()
    }


def column_types(clips: Iterable[Clip]) -> dict[str, pa.DataType]:
    """Return the extra columns of the clips, each with the common type of all its values.

    Iterates over the clips a second time if there are several blocks with different types.

    Raises TokensError, with column and clip, for values that have no common type.
    """
    import pyarrow as pa

    types: dict[str, pa.DataType] = {}
    blocks, differ = list[_Block](), False
    for number, block in enumerate(_blocks(clips)):
        _check_names(names := list(dict.fromkeys((*types, *block.names))))
        merged = {name: _common_type(name, types.get(name, pa.null()), block) for name in names}
        differ, types, blocks = differ or (number > 0 and merged != types), merged, [block]
    kinds = {name: _column_type(name, kind, blocks[-1]) for name, kind in types.items()}
    for block in _blocks(clips) if differ else blocks:
        for name, kind in kinds.items():
            block.to_array(name, kind)  # may fail, for example for a large integer in a float column
    return kinds


@dataclass(frozen=True)
class _Block:
    """Some clips, and the extra columns of their rows."""

    clips: Sequence[Clip]
    rows: Sequence[Mapping[str, Any]]

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def values(self, name: str) -> list[Any]:
        return [row.get(name) for row in self.rows]

    def to_array(self, name: str, kind: pa.DataType | None = None) -> pa.Array:
        """Return the values of a column; raises TokensError if they do not have one type, or `kind`."""
        import pyarrow as pa

        try:
            return pa.array(self.values(name), type=kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise TokensError(_mismatch_message(name, self.values(name), self.clips, error)) from error


def _blocks(clips: Iterable[Clip]) -> Iterator[_Block]:
    iterator = iter(clips)
    while block := list(itertools.islice(iterator, BLOCK_CLIPS)):
        yield _Block(block, [column_values(clip) for clip in block])


def _common_type(name: str, earlier_type: pa.DataType, block: _Block) -> pa.DataType:
    """Return the common type of the values of a block and of the earlier values."""
    import pyarrow as pa

    kind = block.to_array(name).type
    try:
        schemas = [pa.schema([(name, each)]) for each in (earlier_type, kind)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise TokensError(
            f"the manifest's column {name!r} mixes types: {earlier_type} in clips before "
            f"{block.clips[0].id!r}, and {kind} from there on. Give all of its values one type, or remove "
            "the column."
        ) from error


def _column_type(name: str, kind: pa.DataType, block: _Block) -> pa.DataType:
    try:
        return storable_type(kind)
    except TypeError as error:
        raise TokensError(_mismatch_message(name, block.values(name), block.clips, error)) from error


def _check_names(names: Sequence[str]) -> None:
    if len(names) > MAX_COLUMNS:
        raise TokensError(
            f"the manifest has {len(names)} columns; a token dataset has at most {MAX_COLUMNS}. Remove some, "
            "or put the data that differs from row to row into one text column."
        )
    for name in names:
        if name in DATASET_COLUMNS:
            raise TokensError(
                f"the manifest has a column {name!r}, but a token dataset already has one. Rename it, for "
                f"example to 'source_{name}'."
            )


def _value(clip: Clip, column: str, value: Any, depth: int = 0) -> Any:
    """Return the value with its strings as valid UTF-8; raises TokensError if it is too long or deep."""
    if isinstance(value, str):
        if len(value) > MAX_CHARACTERS:
            raise TokensError(
                f"clip {clip.id!r}: {column!r} has a text of {len(value)} characters; a token dataset takes "
                f"at most {MAX_CHARACTERS}. Remove it."
            )
        return utf8_safe(value)
    if depth > MAX_DEPTH:
        raise TokensError(
            f"clip {clip.id!r}: {column!r} is nested deeper than {MAX_DEPTH} levels. "
            "Remove it, or store it as text."
        )
    if isinstance(value, Mapping):
        return {
            utf8_safe(key) if isinstance(key, str) else key: _value(clip, column, item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_value(clip, column, item, depth + 1) for item in value]
    return value


def storable_type(kind: pa.DataType) -> pa.DataType:
    """Return the type with strings in place of null types.

    Raises TypeError for a type that JSON does not have.
    """
    import pyarrow as pa

    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(storable_type(kind.value_type))
    if pa.types.is_struct(kind):
        if not kind.num_fields:
            raise TypeError("objects without a key")
        return pa.struct([(field.name, storable_type(field.type)) for field in kind])
    if pa.types.is_string(kind) or any(
        test(kind) for test in (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating)
    ):
        return kind
    raise TypeError(f"values of type {kind}")


def _mismatch_message(name: str, values: Sequence[Any], clips: Sequence[Clip], error: Exception) -> str:
    """Return an error message with the first value that does not fit the values before it."""
    first = next((i for i, value in enumerate(values) if value is not None), 0)
    low, high = first, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if _have_common_type(values[first : middle + 1]) else (low, middle)
    shown = [
        f"{value!r:.40} in clip {clips[i].id!r}" for i, value in ((first, values[first]), (low, values[low]))
    ]
    examples = shown[0] if low == first else f"{shown[0]}, but {shown[1]}"
    reason = " ".join(str(error).split())[:200]
    return (
        f"the manifest's column {name!r} mixes types, or has values that a token dataset cannot store: it is "
        f"{examples} ({reason}). Give all of its values one type (text, a number, true or false, a list or "
        "an object of these), or remove the column."
    )


def _have_common_type(values: Sequence[Any]) -> bool:
    import pyarrow as pa

    try:
        kind = pa.array(values).type
        pa.array(values, type=storable_type(kind))
    except TypeError as error:
        return "objects without a key" in str(error)  # a later value may have one
    except (pa.ArrowException, ValueError, OverflowError):
        return False
    return True

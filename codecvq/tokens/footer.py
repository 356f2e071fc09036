"""A reader for the row groups in the footer of a Parquet file.

For some damaged footers, pyarrow terminates the process when a column of a row group is accessed. This reader
raises ValueError instead. For the field numbers see `parquet.thrift` in the Parquet specification.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, BinaryIO

from codecvq.tokens.compact_protocol import BINARY, I32, I64, LIST, STRUCT, CompactReader, Fields

_MAGIC = b"PAR1"
MAX_FOOTER_BYTES = 1 << 26


@dataclass(frozen=True)
class ColumnChunk:
    """One column of a row group."""

    path: str  # schema names joined by dots
    physical_type: int
    codec: int  # compression codec
    num_values: int
    compressed: int  # bytes in the file, including page headers
    uncompressed: int  # bytes
    start: int  # offset of the first page in the file


@dataclass(frozen=True)
class RowGroupMetadata:
    """Row count and columns of one row group."""

    num_rows: int
    columns: tuple[ColumnChunk, ...]


def read_groups(file: BinaryIO) -> tuple[RowGroupMetadata, ...]:
    """Read the row groups of a Parquet file; raises ValueError if the footer is invalid."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    tail = file.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or length > min(size - 8, MAX_FOOTER_BYTES):
        raise ValueError("it does not end like a Parquet file, or its footer is too large")
    file.seek(size - 8 - length)
    try:
        fields = CompactReader(file.read(length)).struct()
        groups = tuple(_group(item) for item in _structs(fields, 4))
        rows = fields[3, I64]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError("its footer cannot be read") from error
    if sum(group.num_rows for group in groups) != rows:
        raise ValueError(f"its footer claims {rows} rows, but its row groups have another number")
    for column in (column for group in groups for column in group.columns):
        smallest = min(column.num_values, column.compressed, column.uncompressed, column.start)
        if smallest < 0 or column.start + column.compressed > size - 8 - length:
            raise ValueError(f"its column {column.path[:60]!r} lies outside the file")
    return groups


def _structs(fields: Fields, number: int) -> list[Fields]:
    kind, items = fields[number, LIST]
    if items and kind != STRUCT:
        raise ValueError("its footer has a list of an unexpected kind")
    return list(items)


def _group(fields: Fields) -> RowGroupMetadata:
    return RowGroupMetadata(fields[3, I64], tuple(_column(item[3, STRUCT]) for item in _structs(fields, 1)))


def _column(fields: Fields) -> ColumnChunk:
    kind, names = fields[3, LIST]
    if kind != BINARY:
        raise ValueError("its footer has a path of an unexpected kind")
    pages: int = fields[9, I64]
    dictionary: Any = fields.get((11, I64))  # Any: a number or None
    return ColumnChunk(
        path=b".".join(names).decode(),
        physical_type=fields[1, I32],
        codec=fields[4, I32],
        num_values=fields[5, I64],
        compressed=fields[7, I64],
        uncompressed=fields[6, I64],
        start=dictionary if dictionary and 0 < dictionary < pages else pages,
    )

"""A shard of a token dataset: a Parquet file, written atomically and read within memory limits.

A shard is the unit of work. Its rows, the card of its codec and its failed clips are in one file, so a
process that is killed between two writes cannot leave an inconsistent dataset. Codes are plain lists.
Fixed-size lists are ten times slower to read with Hugging Face `datasets`, and binary values lose trailing
zero bytes.

The footer also has a checksum of each row group and of the failures. Older shards without checksums are read
without this check.
"""

from __future__ import annotations

import contextlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

from pydantic import BaseModel, ConfigDict, Field

from codecvq.errors import TokensError
from codecvq.files import atomic_file, stale_temporary_files
from codecvq.json_file import parse_json, validated
from codecvq.tokens.card import Card
from codecvq.tokens.checksum import batch_checksum
from codecvq.tokens.columns import storable_type
from codecvq.tokens.footer import ColumnChunk, RowGroupMetadata, read_groups
from codecvq.tokens.pages import column_problem
from codecvq.tokens.rows import (
    MAX_CODES,
    REWRITE_ADVICE,
    RowGroup,
    TokenFailure,
    TokenRow,
    rows_to_batch,
    schema_of,
    schema_problem,
    to_batch,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

CARD_KEY, FAILURES_KEY, CHECKSUMS_KEY = b"codecvq.codec", b"codecvq.failures", b"codecvq.checksums"
_ARROW_KEY = b"ARROW:schema"
ROW_GROUP = 1000  # maximum rows per group; reading one row reads its whole group
GROUP_CODES = 1 << 22  # approximate limit of codes per row group of several rows
SHARD_NAME = re.compile(r"(?P<split>.+)-(?P<index>[0-9]{5,})-of-(?P<count>[0-9]{5,})\.parquet")

#: Limits for the columns of a row group: a fixed number, plus a number per byte in the file.
BASE_CODES, BASE_VALUES, VALUES_PER_BYTE = MAX_CODES, 1 << 22, 16
BASE_BYTES, UNPACKED_PER_BYTE = 1 << 28, 64
MAX_FOOTER_ELEMENTS = 100_000  # elements of one list: columns or row groups


class _Checksums(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    groups: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...]  # of each row group
    failures: Annotated[int, Field(ge=0, lt=2**32)]


class _Failure(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    source: str
    error: str


class _Failures(BaseModel):
    failures: list[_Failure]


def shard_name(split: str, index: int, count: int) -> str:
    """Return the file name of a shard, in the pattern of Hugging Face."""
    return f"{split}-{index:05d}-of-{count:05d}.parquet"


def write_shard(
    path: Path,
    card: Card,
    columns: Mapping[str, pa.DataType],
    rows: Sequence[TokenRow],
    failures: Sequence[TokenFailure],
) -> None:
    """Write a shard: the rows in the given order; the card, failures and checksums in the footer.

    Raises TokensError for an invalid row.
    """
    with atomic_file(path) as temporary:
        write_parquet(temporary, card, columns, rows, failures, str(path))
    for leftover in stale_temporary_files(path):
        leftover.unlink(missing_ok=True)


def write_parquet(
    sink: Any,  # a path or a file object
    card: Card,
    columns: Mapping[str, pa.DataType],
    rows: Sequence[TokenRow],
    failures: Sequence[TokenFailure],
    origin: str,
) -> None:
    """Write the Parquet file of a shard to `sink`; `origin` names it in errors."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    groups, start = [], 0
    for size in _group_sizes(rows):
        groups.append(rows_to_batch(card, columns, rows[start : start + size]))
        start += size
    for group in groups:
        for problem in RowGroup(group, card, origin).problems.values():
            raise TokensError(f"{origin} cannot be written: {problem}.")
    failed = json.dumps([vars(failure) for failure in failures]).encode()
    sums = _Checksums(groups=tuple(map(batch_checksum, groups)), failures=zlib.crc32(failed))
    footer = {
        CARD_KEY: card.to_json().encode(),
        FAILURES_KEY: failed,
        CHECKSUMS_KEY: sums.model_dump_json().encode(),
    }
    schema = schema_of(card, columns).with_metadata(footer)
    with pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer:
        for group in groups:  # no group if all clips failed: the Hugging Face reader fails on an empty one
            table = pa.Table.from_batches([group]).replace_schema_metadata(footer)
            writer.write_table(table, row_group_size=len(table))


def _group_sizes(rows: Sequence[TokenRow]) -> Iterator[int]:
    """Yield the number of rows of each row group."""
    count = codes = 0
    for row in rows:
        if count and (count == ROW_GROUP or codes + row.codes.size > GROUP_CODES):
            yield count
            count = codes = 0
        count, codes = count + 1, codes + row.codes.size
    if count:
        yield count


@dataclass(frozen=True)
class Shard:
    """One shard file, with its footer already read."""

    path: Path
    split: str
    card: Card
    failures: tuple[TokenFailure, ...]  # clips of this shard without a row
    checksums: tuple[int, ...] | None  # of each row group; None in older shards
    metadata: pq.FileMetaData
    groups: tuple[RowGroupMetadata, ...]
    source: Any  # a path or a file object

    @classmethod
    def open(cls, path: Path) -> Shard:
        """Open a shard file; raises TokensError if it cannot be read."""
        name = SHARD_NAME.fullmatch(path.name)
        if name is None:
            raise TokensError(
                f"{path} does not have the name of a shard (split-00000-of-00001.parquet). Move it out of "
                "the data folder."
            )
        if not path.is_file():
            raise TokensError(f"{path} is not a regular file. {REWRITE_ADVICE}")
        return cls.read(path, path, name["split"])

    @classmethod
    def read(cls, source: Any, path: Path, split: str) -> Shard:
        """Read the footer of the shard in `source`, a path or a file; `path` names it in errors."""
        try:
            with _open(source) as stream:
                groups = read_groups(stream)
            problem = _groups_problem(groups)
            with _parquet_file(source) as file:
                metadata, schema = file.metadata, file.schema_arrow
                texts = dict(metadata.metadata or {})
            card = Card.from_json(texts.get(CARD_KEY, b""), str(path))
            problem = problem or _schema_problem(schema, card, texts)
        except _read_errors() as error:
            raise _damaged_error(path, error) from error
        if problem:
            raise _damaged_error(path, problem)
        failures, checksums = _footer(path, texts, len(groups))
        return cls(path, split, card, failures, checksums, metadata, groups, source)

    def __len__(self) -> int:
        return sum(self.group_sizes)

    @property
    def group_sizes(self) -> list[int]:
        """The number of rows of each row group."""
        return [group.num_rows for group in self.groups]

    def rows(self) -> Iterator[TokenRow]:
        """Yield every row, in order; raises TokensError at the first damaged row."""
        for index in range(len(self.groups)):
            yield from self.group(index)

    def group(self, index: int) -> RowGroup:
        """Read one row group; raises TokensError if it is damaged."""
        batch = self._read(index)
        if batch.num_rows != self.group_sizes[index]:
            raise _damaged_error(self.path, f"row group {index} has {batch.num_rows} rows")
        group = RowGroup(batch, self.card, str(self.path))
        if self.checksums is not None and batch_checksum(batch) != self.checksums[index]:
            raise _damaged_error(self.path, f"the checksum of row group {index} is wrong")
        return group

    def ids(self) -> list[str]:
        """Read the ids of all rows, in order."""
        ids = []
        for index in range(len(self.groups)):
            batch = self._read(index, ["id"])
            try:
                batch.validate(full=True)
            except _read_errors() as error:
                raise _damaged_error(self.path, error) from error
            ids += batch.column("id").to_pylist()
        if None in ids:
            raise _damaged_error(self.path, "a row has no id")
        return ids

    def _read(self, group: int, columns: list[str] | None = None) -> pa.RecordBatch:
        try:
            self._check_pages(group, columns)
            with _parquet_file(self.source, self.metadata) as file:
                return to_batch(file.read_row_group(group, columns=columns))
        except _read_errors() as error:
            raise _damaged_error(self.path, error) from error

    def _check_pages(self, group: int, columns: list[str] | None) -> None:
        with _open(self.source) as file:
            for column in self.groups[group].columns:
                wanted = columns is None or column.path in columns
                if wanted and (problem := column_problem(file, column)):
                    raise ValueError(f"{column.path}: {problem}")


def _open(source: Any) -> AbstractContextManager[BinaryIO]:  # Any: a path or a file
    return source.open("rb") if isinstance(source, Path) else contextlib.nullcontext(source)


def _parquet_file(source: Any, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    return pq.ParquetFile(
        source,
        metadata=metadata,
        thrift_container_size_limit=MAX_FOOTER_ELEMENTS,
        page_checksum_verification=True,
    )


def _read_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that pyarrow raises for a damaged file."""
    import pyarrow as pa

    return (pa.ArrowException, OSError, ValueError, OverflowError, TypeError)


def _damaged_error(path: Path, what: object) -> TokensError:
    text = " ".join(str(what).split())
    return TokensError(f"{path} is damaged ({text[:300]}). {REWRITE_ADVICE}")


def _groups_problem(groups: Sequence[RowGroupMetadata]) -> str:
    """Describe the first row group with an invalid number of rows or too much memory use; "" if none."""
    for index, group in enumerate(groups):
        if not 0 < group.num_rows <= ROW_GROUP:
            return f"row group {index} has {group.num_rows} rows; 1 to {ROW_GROUP} are read"
        codes = [column for column in group.columns if column.path.startswith("codes.")]
        others = [column for column in group.columns if not column.path.startswith("codes.")]
        if problem := _size_problem(codes, BASE_CODES) or _size_problem(others, BASE_VALUES):
            return f"row group {index} {problem}"
    return ""


def _size_problem(columns: Sequence[ColumnChunk], base: int) -> str:
    size = sum(column.compressed for column in columns)
    values = sum(column.num_values for column in columns)
    unpacked = sum(column.uncompressed for column in columns)
    if values > base + VALUES_PER_BYTE * size or unpacked > BASE_BYTES + UNPACKED_PER_BYTE * size:
        return f"claims {values:,} values and {unpacked:,} bytes in {size:,} bytes"
    return ""


def _schema_problem(schema: pa.Schema, card: Card, texts: Mapping[bytes, bytes]) -> str:
    for key in texts:
        if key not in (CARD_KEY, FAILURES_KEY, CHECKSUMS_KEY, _ARROW_KEY):
            return f"its footer has an unknown key {key[:40]!r}"
    if CHECKSUMS_KEY in texts:
        for column in schema:
            if storable_type(column.type) != column.type:
                return f"its column {column.name[:40]!r} is of type {str(column.type)[:60]}"
    return schema_problem(schema, card)


def _footer(
    path: Path, texts: Mapping[bytes, bytes], groups: int
) -> tuple[tuple[TokenFailure, ...], tuple[int, ...] | None]:
    """Return the failures and the checksums in a footer."""
    failed = texts.get(FAILURES_KEY, b"null")
    document = parse_json(
        b'{"failures": ' + failed + b"}", f"{path}, failures", error=TokensError, advice=REWRITE_ADVICE
    )
    listed = validated(
        _Failures, document, f"{path}, failures", error=TokensError, advice=REWRITE_ADVICE
    ).failures
    failures = tuple(TokenFailure(failure.id, failure.source, failure.error) for failure in listed)
    if CHECKSUMS_KEY not in texts:
        return failures, None
    fields = parse_json(texts[CHECKSUMS_KEY], f"{path}, checksums", error=TokensError, advice=REWRITE_ADVICE)
    sums = validated(_Checksums, fields, f"{path}, checksums", error=TokensError, advice=REWRITE_ADVICE)
    if sums.failures != zlib.crc32(failed) or len(sums.groups) != groups:
        raise _damaged_error(path, "the checksums do not match")
    return failures, sums.groups

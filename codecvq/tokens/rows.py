"""Rows of a token dataset: conversion to and from Arrow batches, and validation.

`RowGroup` validates all rows that are read: types, nulls, shape, range, lengths, and `sample_rate` and
`codec` against the card. It works on Arrow offsets, so it checks a whole group at once.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from codecvq.codec.blocks import first_change, join_blocks, split_blocks
from codecvq.errors import TokensError
from codecvq.tokens.card import Card

if TYPE_CHECKING:
    import pyarrow as pa

DATASET_COLUMNS = ("id", "codes", "num_frames", "num_samples", "sample_rate", "source", "codec")
MAX_CODES = 1 << 25  # per row, to limit the memory of a reader
CODEC_DIGITS = 12  # hexadecimal digits of the hash in the column `codec`
REWRITE_ADVICE = "Remove the file and run the same tokenize command again: it writes only this shard."


@dataclass(frozen=True)
class TokenRow:
    """The codes `[N, T]` of one clip, its length in samples, and the manifest columns.

    Codes of a codebook with a stride above 1 repeat over the frames of their block.
    """

    id: str
    codes: npt.NDArray[np.integer[Any]]  # unsigned if read from a file
    num_samples: int
    source: Mapping[str, Any]  # path, start_s
    columns: Mapping[str, Any] = field(default_factory=dict)  # Any: manifest values

    @property
    def num_frames(self) -> int:
        """The number of frames T."""
        return self.codes.shape[1]


@dataclass(frozen=True)
class TokenFailure:
    """A clip without a row, and the error."""

    id: str
    source: str
    error: str


def codes_dtype(sizes: Sequence[int]) -> type[np.unsignedinteger[Any]]:
    """Return the smallest of uint16, uint32 and uint64 that fits the codes of all codebooks."""
    largest = max(sizes) - 1
    if largest < 2**16:
        return np.uint16
    return np.uint32 if largest < 2**32 else np.uint64


def schema_of(card: Card, columns: Mapping[str, pa.DataType]) -> pa.Schema:
    """Return the schema of the shards: the dataset columns, then the manifest columns."""
    import pyarrow as pa

    dataset_columns: list[tuple[str, pa.DataType]] = [
        ("id", pa.string()),
        ("codes", pa.list_(pa.list_(pa.from_numpy_dtype(codes_dtype(card.codebook_sizes))))),
        ("num_frames", pa.int64()),
        ("num_samples", pa.int64()),
        ("sample_rate", pa.int64()),
        ("source", pa.struct([("path", pa.string()), ("start_s", pa.float64())])),
        ("codec", pa.string()),
    ]
    return pa.schema([*dataset_columns, *columns.items()])


def schema_problem(schema: pa.Schema, card: Card) -> str:
    """Return what is wrong with the columns of a shard, or ""."""
    names = schema.names
    if len(set(names)) < len(names):
        return "two columns have the same name"
    for expected in schema_of(card, {}):
        if expected.name not in names:
            return f"it has no column {expected.name!r}"
        actual = schema.field(expected.name).type
        if actual != expected.type:
            return (
                f"its column {expected.name!r} is of type {str(actual)[:60]}, but {expected.type} is needed"
            )
    return ""


def rows_to_batch(card: Card, columns: Mapping[str, pa.DataType], rows: Sequence[TokenRow]) -> pa.RecordBatch:
    """Return the rows as a batch with the schema of `schema_of`."""
    import pyarrow as pa

    schema = schema_of(card, columns)
    dtype = codes_dtype(card.codebook_sizes)
    dataset_columns = {
        "id": [row.id for row in rows],
        "codes": _list_array([split_blocks(row.codes, card.frames_per_code) for row in rows], dtype),
        "num_frames": [row.num_frames for row in rows],
        "num_samples": [row.num_samples for row in rows],
        "sample_rate": [card.sample_rate] * len(rows),
        "source": [dict(row.source) for row in rows],
        "codec": [card.codebooks_sha256[:CODEC_DIGITS]] * len(rows),
    }
    values = dataset_columns | {name: [row.columns.get(name) for row in rows] for name in columns}
    arrays = [
        values[name]
        if isinstance(values[name], pa.Array)
        else pa.array(values[name], type=schema.field(name).type)
        for name in schema.names
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def codes_problem(codes: npt.NDArray[Any], num_samples: int, card: Card) -> str:
    """Return why the output of a codec is not valid for a row `[N, T]`, or ""."""
    books, frames = len(card.codebook_sizes), -(-num_samples // card.hop_length)
    if not np.issubdtype(codes.dtype, np.integer):
        return f"the codec returned codes of type {codes.dtype}, not integers"
    if codes.shape != (books, frames):
        shape = list(codes.shape)
        return f"the codec returned shape {shape} for {num_samples} samples, not {[books, frames]}"
    if problem := size_problem(codes.size):
        return problem
    for book, (row, size) in enumerate(zip(codes, card.codebook_sizes, strict=True)):
        if row.size and not 0 <= int(row.min()) <= int(row.max()) < size:
            return f"the codec returned a code outside the {size} entries of codebook {book}"
    if change := first_change(codes, card.frames_per_code):
        return f"the codec returned codes of codebook {change[0]} that change in a block at frame {change[1]}"
    return ""


def size_problem(codes: int) -> str:
    """Return why a row cannot have this number of codes, or ""."""
    if codes <= MAX_CODES:
        return ""
    return f"{codes:,} codes exceed the limit of {MAX_CODES:,} per row. Cut long clips with max_seconds"


def _list_array(rows: Sequence[Sequence[npt.NDArray[Any]]], dtype: type[np.unsignedinteger[Any]]) -> pa.Array:
    """Return the codes `[T_n]` of all codebooks of all rows as list<list<dtype>>.

    Does not create a Python object per code.
    """
    import pyarrow as pa

    books = [codes for row in rows for codes in row]
    inner = np.cumsum([0, *map(len, books)]).astype(np.int32)
    values = np.concatenate([np.zeros(0, dtype), *books]).astype(dtype)
    outer = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(outer), pa.ListArray.from_arrays(pa.array(inner), pa.array(values))
    )


def to_batch(table: pa.Table) -> pa.RecordBatch:
    """Return the table as one batch, without a copy if its columns have one chunk.

    Raises the errors of pyarrow.
    """
    import pyarrow as pa

    arrays = []
    for column in table.columns:
        if column.num_chunks != 1:
            column.validate(full=True)
        arrays.append(column.chunk(0) if column.num_chunks == 1 else column.combine_chunks())
    return pa.RecordBatch.from_arrays(arrays, schema=table.schema)


class RowGroup:
    """The rows of one batch, validated against the card; access to an invalid row raises TokensError.

    Raises TokensError if the whole batch cannot be read. `origin` names the file in errors.
    """

    def __init__(self, batch: pa.RecordBatch, card: Card, origin: str) -> None:
        import pyarrow as pa

        try:
            batch.validate(full=True)  # checks offsets and UTF-8
        except (pa.ArrowException, ValueError) as error:
            raise TokensError(f"{origin} is damaged ({error}). {REWRITE_ADVICE}") from error
        self.batch, self.card, self.origin = batch, card, origin
        self._codes = _Codes(batch.column("codes"), card, _numpy(batch.column("num_frames"), -1))
        if self._codes.cells > MAX_CODES and card.strides is not None:
            raise TokensError(
                f"{origin} is damaged (a row group of {self._codes.cells:,} codes, including repeated codes; "
                f"at most {MAX_CODES:,} are read). {REWRITE_ADVICE}"
            )
        #: row index -> what is wrong with the row
        self.problems = self._problems()

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def __iter__(self) -> Iterator[TokenRow]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> TokenRow:
        """Return a row; raises TokensError if it is invalid."""
        if index in self.problems:
            raise TokensError(f"{self.origin}: {self.problems[index]}. {REWRITE_ADVICE}")
        samples, sources, columns = self._values
        return TokenRow(
            self.ids[index], self._codes.row(index), samples[index], sources[index], columns[index]
        )

    @cached_property
    def ids(self) -> list[str]:
        """The ids of the rows; "" for a null."""
        return [id or "" for id in self.batch.column("id").to_pylist()]

    @cached_property
    def _values(self) -> tuple[list[int], list[dict[str, Any]], list[dict[str, Any]]]:
        """`num_samples`, `source` and the manifest columns of all rows, as Python values."""
        import pyarrow as pa

        names = [name for name in self.batch.schema.names if name not in DATASET_COLUMNS]
        try:
            columns = self.batch.select(names).to_pylist() if names else [{} for _ in range(len(self))]
        except (
            pa.ArrowException,
            ValueError,
            OverflowError,
            TypeError,
            LookupError,
        ) as error:  # for example invalid dates or time zones
            raise TokensError(
                f"{self.origin} contains values that cannot be read ({error}). {REWRITE_ADVICE}"
            ) from error
        return self.batch.column("num_samples").to_pylist(), self.batch.column("source").to_pylist(), columns

    def _problems(self) -> dict[int, str]:
        bad: dict[int, str] = {}
        for broken, explain in self._rules():
            for index in np.flatnonzero(broken).tolist() if broken.any() else ():
                bad.setdefault(index, f"clip {self.ids[index]!r} {explain(index)}")
        return bad

    def _rules(self) -> Iterator[tuple[npt.NDArray[np.bool_], Callable[[int], str]]]:
        """Yield for each rule the mask `[R]` of violating rows, and a function that describes one row."""
        columns = dict(zip(self.batch.schema.names, self.batch.columns, strict=True))
        card, codes = self.card, self._codes
        for name in DATASET_COLUMNS:
            yield _numpy(columns[name].is_null()), partial(_missing_message, name)
        path, start_s = columns["source"].field("path"), _numpy(columns["source"].field("start_s"), np.nan)
        yield _numpy(path.is_null()), lambda _: "has no source.path"
        yield ~(np.isfinite(start_s) & (start_s >= 0)), lambda i: f"has a source.start_s of {start_s[i]}"
        books = len(card.codebook_sizes)
        yield codes.has_null, lambda _: "has a null among its codes"
        yield codes.books != books, lambda i: f"has {codes.books[i]} codebooks, not {books}"
        frames, samples = _numpy(columns["num_frames"], -1), _numpy(columns["num_samples"], -1)
        yield (
            codes.ragged,
            lambda i: f"has codebooks of {codes.lengths_of(i)} codes, but num_frames is {frames[i]}",
        )
        yield codes.out_of_range(card.codebook_sizes), lambda _: "has a code outside its codebook"
        yield (
            (samples < 0) | (frames != -(-samples // card.hop_length)),
            (lambda i: f"has {frames[i]} frames for {samples[i]} samples"),
        )
        rates = _numpy(columns["sample_rate"], -1)
        yield rates != card.sample_rate, lambda i: f"has a sample_rate of {rates[i]}, not {card.sample_rate}"
        codec = columns["codec"].fill_null("").to_numpy(zero_copy_only=False)
        expected = card.codebooks_sha256[:CODEC_DIGITS]
        yield codec != expected, lambda i: f"is of codec {codec[i][:40]!r}, not {expected!r}"


def _missing_message(name: str, row: int) -> str:
    return f"has no {name}"


class _Codes:
    """A column of codes (list of lists of integers) as numpy arrays: `R` rows with `M` codebooks in total.

    `frames` `[R]` is the column `num_frames`, not yet validated.
    """

    def __init__(self, column: pa.Array, card: Card, frames: npt.NDArray[np.int64]) -> None:
        lists = column.values
        self._column, self._lists = column, lists
        self._outer = column.offsets.to_numpy()  # [R + 1]
        self._inner = lists.offsets.to_numpy()  # [M + 1]
        self._values = _numpy(lists.values, 0)
        self.books = np.diff(self._outer)  # [R]
        self._lengths = np.diff(self._inner)  # [M]
        self._row_of = np.repeat(np.arange(len(column)), self.books)  # [M]
        self._frames, self._strides = frames, card.frames_per_code
        self._book_of = np.arange(len(self._row_of)) - self._outer[self._row_of]  # [M]

    @property
    def cells(self) -> int:
        """The number of codes of all rows in memory, including repeated codes."""
        return sum(map(operator.mul, self.books.tolist(), self._frames.clip(0).tolist()))

    def row(self, index: int) -> npt.NDArray[Any]:
        """Return the codes `[N, T]` of a valid row."""
        first, last = self._outer[index], self._outer[index + 1]
        if max(self._strides) == 1:
            return self._values[self._inner[first] : self._inner[last]].reshape(last - first, -1)
        parts = [self._values[self._inner[at] : self._inner[at + 1]] for at in range(first, last)]
        return join_blocks(parts, self._strides, int(self._frames[index]))

    def lengths_of(self, index: int) -> str:
        """Return the numbers of codes per codebook of a row, as text for an error."""
        lengths = self._lengths[self._outer[index] : self._outer[index + 1]].tolist()
        return ", ".join(map(str, lengths[:8])) + (", …" if len(lengths) > 8 else "")

    @property
    def has_null(self) -> npt.NDArray[np.bool_]:
        """Mask `[R]` of rows with a null codebook or a null code."""
        lists = _numpy(self._lists.is_null())
        values = self._lists.values
        if values.null_count:
            at = np.flatnonzero(_numpy(values.is_null()))
            inside = at[at < self._inner[-1]]
            lists[np.searchsorted(self._inner, inside, side="right") - 1] = True
        return self._rows_with(lists)

    @property
    def ragged(self) -> npt.NDArray[np.bool_]:
        """Mask `[R]` of rows with a codebook whose number of codes does not match the frames."""
        strides = np.array(self._strides)[np.minimum(self._book_of, len(self._strides) - 1)]
        return self._rows_with(self._lengths != -(-self._frames[self._row_of] // strides))

    def out_of_range(self, sizes: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Return the mask `[R]` of rows with a code outside its codebook."""
        filled = np.flatnonzero(self._lengths)
        largest = (
            np.maximum.reduceat(self._values[: self._inner[-1]], self._inner[filled]) if len(filled) else 0
        )
        book = np.minimum(self._book_of, len(sizes) - 1)
        limits = np.array([size - 1 for size in sizes], dtype=np.uint64)[book]
        out_of_range = np.zeros(len(self._row_of), dtype=bool)
        out_of_range[filled] = largest > limits[filled]
        return self._rows_with(out_of_range)

    def _rows_with(self, lists: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return the mask `[R]` of rows with a codebook in the mask `lists` `[M]`."""
        return np.bincount(self._row_of[lists], minlength=len(self.books)) > 0


def _numpy(array: pa.Array, null_value: float | None = None) -> npt.NDArray[Any]:
    filled = array.fill_null(null_value) if null_value is not None and array.null_count else array
    return filled.to_numpy(zero_copy_only=False)

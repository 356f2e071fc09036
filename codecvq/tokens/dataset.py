"""The token dataset: rows of codes in Parquet shards, written whole or not at all, and read back as numpy.

A row is `id`, `codes` (`list<list<uint16>>`, [N][T]; wider integers where a codebook needs them),
`num_frames`, `num_samples`, `sample_rate`, `source`, `codec`, and the manifest's own columns. Plain lists:
fixed-size ones are ten times slower to read through Hugging Face, and binary ones lose trailing zero bytes.

A shard is the unit of work: its rows, the card of its codec and the clips of it that failed are in the one
file, so that there is nothing that a process killed between two writes could leave in contradiction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from codecvq.errors import TokensError, nearest
from codecvq.files import leftovers, whole_file
from codecvq.tokens.card import Card, read_card

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

OWN_COLUMNS = ("id", "codes", "num_frames", "num_samples", "sample_rate", "source", "codec")
CARD_KEY, FAILURES_KEY = b"codecvq.codec", b"codecvq.failures"
ROW_GROUP = 1000  # rows: what reading a single one costs
SHARD_NAME = re.compile(r"(?P<split>.+)-(?P<index>\d{5,})-of-(?P<count>\d{5,})\.parquet")


@dataclass(frozen=True)
class TokenRow:
    """One clip's codes `[N, T]`, how many samples they stand for, and the manifest's columns."""

    id: str
    codes: npt.NDArray[np.integer[Any]]  # unsigned as read
    num_samples: int
    source: Mapping[str, Any]  # path, start_s
    columns: Mapping[str, Any] = field(default_factory=dict)  # Any: whatever the manifest had

    @property
    def num_frames(self) -> int:
        """T."""
        return self.codes.shape[1]


@dataclass(frozen=True)
class TokenFailure:
    """A clip that has no row, and why."""

    id: str
    source: str
    error: str


def codes_dtype(sizes: Sequence[int]) -> type[np.unsignedinteger[Any]]:
    """The smallest of uint16, uint32 and uint64 that holds the codes of every codebook."""
    largest = max(sizes) - 1
    if largest < 2**16:
        return np.uint16
    return np.uint32 if largest < 2**32 else np.uint64


def shard_name(split: str, index: int, count: int) -> str:
    """The file name of a shard, in the form that Hugging Face uses."""
    return f"{split}-{index:05d}-of-{count:05d}.parquet"


def schema_of(card: Card, columns: Mapping[str, pa.DataType]) -> pa.Schema:
    """The shards' schema: our columns, then the manifest's."""
    import pyarrow as pa

    ours: list[tuple[str, pa.DataType]] = [
        ("id", pa.string()),
        ("codes", pa.list_(pa.list_(pa.from_numpy_dtype(codes_dtype(card.codebook_sizes))))),
        ("num_frames", pa.int64()),
        ("num_samples", pa.int64()),
        ("sample_rate", pa.int64()),
        ("source", pa.struct([("path", pa.string()), ("start_s", pa.float64())])),
        ("codec", pa.string()),
    ]
    return pa.schema([*ours, *columns.items()])


def write_shard(
    path: Path,
    card: Card,
    columns: Mapping[str, pa.DataType],
    rows: Sequence[TokenRow],
    failures: Sequence[TokenFailure],
) -> None:
    """Writes a shard: the rows as they come, the card and the failures in its footer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = schema_of(card, columns)
    ours = {
        "id": [row.id for row in rows],
        "codes": _list_array(
            [row.codes for row in rows], len(card.codebook_sizes), codes_dtype(card.codebook_sizes)
        ),
        "num_frames": [row.num_frames for row in rows],
        "num_samples": [row.num_samples for row in rows],
        "sample_rate": [card.sample_rate] * len(rows),
        "source": [dict(row.source) for row in rows],
        "codec": [card.codebooks_sha256[:12]] * len(rows),
    }
    values = ours | {name: [row.columns.get(name) for row in rows] for name in columns}
    arrays = [
        values[name]
        if isinstance(values[name], pa.Array)
        else pa.array(values[name], type=schema.field(name).type)
        for name in schema.names
    ]
    footer = {
        CARD_KEY: card.to_json().encode(),
        FAILURES_KEY: json.dumps([vars(failure) for failure in failures]).encode(),
    }
    labelled = schema.with_metadata(footer)
    with whole_file(path) as temporary, pq.ParquetWriter(temporary, labelled, compression="zstd") as writer:
        if rows:  # a shard whose clips all failed has no row group: an empty one stops Hugging Face's reader
            writer.write_table(pa.Table.from_arrays(arrays, schema=labelled), row_group_size=ROW_GROUP)
    for left in leftovers(path):
        left.unlink(missing_ok=True)


def _list_array(
    codes: Sequence[npt.NDArray[Any]], books: int, dtype: type[np.unsignedinteger[Any]]
) -> pa.Array:
    """Codes `[N, T]` of every row as list<list<dtype>>, without a Python object for each."""
    import pyarrow as pa

    frames = np.repeat([row.shape[1] for row in codes], books)
    inner = np.concatenate([[0], np.cumsum(frames)]).astype(np.int32)
    values = np.concatenate([np.zeros(0, dtype), *(row.reshape(-1) for row in codes)]).astype(dtype)
    outer = np.arange(len(codes) + 1, dtype=np.int32) * books
    return pa.ListArray.from_arrays(
        pa.array(outer), pa.ListArray.from_arrays(pa.array(inner), pa.array(values))
    )


@dataclass(frozen=True)
class Shard:
    """One file of a dataset, opened."""

    path: Path
    split: str
    file: pq.ParquetFile

    @classmethod
    def open(cls, path: Path) -> Shard:
        """The shard in a file; raises TokensError where it cannot be read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        name = SHARD_NAME.fullmatch(path.name)
        if name is None:
            raise TokensError(
                f"{path} is not named like a shard (split-00000-of-00001.parquet). Move it out of the data "
                "folder."
            )
        try:
            return cls(path, name["split"], pq.ParquetFile(path))
        except (pa.ArrowException, OSError) as error:
            raise TokensError(
                f"{path} is damaged ({error}). Remove it and tokenize again: only this shard is made anew."
            ) from error

    def __len__(self) -> int:
        return int(self.file.metadata.num_rows)

    @property
    def card(self) -> Card:
        """The card in the footer."""
        return Card.from_json((self.file.schema_arrow.metadata or {}).get(CARD_KEY, b""), str(self.path))

    @property
    def failures(self) -> list[TokenFailure]:
        """Clips of this shard that have no row."""
        return [TokenFailure(**one) for one in json.loads(self.file.schema_arrow.metadata[FAILURES_KEY])]

    def rows(self) -> Iterator[TokenRow]:
        """Every row, in order."""
        for group in range(self.file.num_row_groups):
            yield from self.group(group)

    def group(self, index: int) -> list[TokenRow]:
        """The rows of one row group."""
        import pyarrow as pa

        try:
            table = self.file.read_row_group(index)
        except (pa.ArrowException, OSError) as error:
            raise TokensError(f"{self.path} is damaged ({error}). Remove it and tokenize again.") from error
        codes = _code_arrays(table.column("codes").combine_chunks())
        others = table.drop_columns(["codes"]).to_pylist()
        return [_row(other, row_codes) for other, row_codes in zip(others, codes, strict=True)]


def _row(fields: dict[str, Any], codes: npt.NDArray[Any]) -> TokenRow:
    columns = {name: value for name, value in fields.items() if name not in OWN_COLUMNS}
    return TokenRow(fields["id"], codes, fields["num_samples"], fields["source"], columns)


def _code_arrays(column: pa.Array) -> Iterator[npt.NDArray[Any]]:
    """The codes `[N, T]` of each row of a list<list<>> column."""
    import pyarrow as pa

    chunk = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    outer = chunk.offsets.to_numpy()
    inner = chunk.values.offsets.to_numpy()
    values = chunk.values.values.to_numpy(zero_copy_only=False)
    for first, last in zip(outer[:-1].tolist(), outer[1:].tolist(), strict=True):
        books = last - first
        yield values[inner[first] : inner[last]].reshape(books, -1) if books else values[:0].reshape(0, 0)


class TokenDataset:
    """The rows of a token dataset, in order: to iterate, to count, and to fetch by id."""

    def __init__(self, folder: str | Path, shards: Sequence[Shard], card: Card) -> None:
        self.folder = Path(folder)
        self.shards = tuple(shards)
        self.card = card
        self._places: dict[str, tuple[Shard, int]] | None = None
        self._last: tuple[tuple[Path, int], list[TokenRow]] | None = None

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def __iter__(self) -> Iterator[TokenRow]:
        return (row for shard in self.shards for row in shard.rows())

    def __contains__(self, id: object) -> bool:
        return id in self._index

    def __getitem__(self, id: str) -> TokenRow:
        """The row of a clip."""
        if id not in self._index:
            raise TokensError(f"{self.folder} has no clip {id!r}.{nearest(id, self._index)}")
        shard, position = self._index[id]
        group, offset = divmod(position, ROW_GROUP)
        if self._last is None or self._last[0] != (shard.path, group):
            self._last = ((shard.path, group), shard.group(group))
        return self._last[1][offset]

    @property
    def ids(self) -> list[str]:
        """The ids of all rows, in order."""
        return list(self._index)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are."""
        return tuple(dict.fromkeys(shard.split for shard in self.shards))

    @property
    def failures(self) -> list[TokenFailure]:
        """Clips that could not be tokenized."""
        return [failure for shard in self.shards for failure in shard.failures]

    def split(self, name: str) -> TokenDataset:
        """The rows of one split."""
        if name not in self.splits:
            raise TokensError(
                f"{self.folder} has no split {name!r}, only "
                f"{', '.join(self.splits)}.{nearest(name, self.splits)}"
            )
        return TokenDataset(self.folder, [shard for shard in self.shards if shard.split == name], self.card)

    @property
    def _index(self) -> dict[str, tuple[Shard, int]]:
        if self._places is None:
            self._places = {
                id: (shard, position)
                for shard in self.shards
                for position, id in enumerate(shard.file.read(columns=["id"]).column("id").to_pylist())
            }
        return self._places


def expected_shards(folder: Path, card: Card) -> list[Path]:
    """The shard files that a complete dataset has, in order."""
    return [
        folder / "data" / shard_name(split, index, count)
        for split, count in card.job.shards.items()
        for index in range(count)
    ]


def read_tokens(folder: str | Path) -> TokenDataset:
    """The token dataset in a folder; raises TokensError where shards are missing or of another codec."""
    folder = Path(folder)
    card = read_card(folder)
    paths = expected_shards(folder, card)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise TokensError(
            f"{folder} is incomplete: {len(missing)} of {len(paths)} shards are missing, the first is "
            f"{missing[0].name}. "
            "Run the same tokenize command again: it makes what is missing."
        )
    shards = [Shard.open(path) for path in paths]
    for shard in shards:
        if shard.card != card:
            raise TokensError(
                f"{shard.path} is of codec {shard.card.codec!r}, codebooks "
                f"{shard.card.codebooks_sha256[:12]}, or of another job; "
                f"the dataset is of {card.codec!r}, {card.codebooks_sha256[:12]}. Move the shard out and "
                "tokenize again."
            )
    return TokenDataset(folder, shards, card)


@dataclass(frozen=True)
class Check:
    """What `check` found; without problems the dataset is as it should be."""

    rows: int
    failures: int
    hours: float
    problems: tuple[str, ...]


def check(folder: str | Path) -> Check:
    """The result of reading every row of a dataset and asking of each what must hold. Raises TokensError
    where it has no card.
    """
    folder = Path(folder)
    try:
        dataset = read_tokens(folder)
    except TokensError as error:
        read_card(folder)
        return Check(0, 0, 0.0, (str(error),))
    card, problems = dataset.card, []
    strays = {path.name for path in (folder / "data").glob("[!.]*.parquet")} - {
        shard.path.name for shard in dataset.shards
    }
    problems += [f"data/{name} is no shard of this dataset" for name in sorted(strays)]
    seen: set[str] = set()
    rows = samples = 0
    for shard in dataset.shards:
        try:
            for row in shard.rows():
                problems += [
                    f"{shard.path.name}: clip {row.id!r} {what}" for what in _row_problems(row, card)
                ]
                problems += [f"{shard.path.name}: clip {row.id!r} is there twice"] if row.id in seen else []
                seen.add(row.id)
                rows, samples = rows + 1, samples + row.num_samples
        except TokensError as error:
            problems.append(str(error))
    failures = len(dataset.failures)
    if rows + failures != card.job.clips:
        problems.append(f"{rows} rows and {failures} failures are not the {card.job.clips} clips of the job")
    return Check(rows, failures, samples / card.sample_rate / 3600, tuple(problems))


def _row_problems(row: TokenRow, card: Card) -> Iterable[str]:
    books, frames = row.codes.shape
    if books != len(card.codebook_sizes):
        yield f"has {books} codebooks, not {len(card.codebook_sizes)}"
    elif frames and (row.codes.max(axis=1) >= np.array(card.codebook_sizes, dtype=np.uint64)).any():
        yield "has a code beyond its codebook"
    if frames != -(-row.num_samples // card.hop_length):
        yield f"has {frames} frames for {row.num_samples} samples"

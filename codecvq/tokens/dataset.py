"""Reading of token datasets: rows of codes in Parquet shards, returned as numpy arrays.

The columns of a row are `id`, `codes` (`list<list<uint16>>`, [N][T]; wider integers for larger codebooks),
`num_frames`, `num_samples`, `sample_rate`, `source`, `codec`, and the manifest columns. A codebook of stride
s has ceil(T / s) codes in the file. When a row is read, each code is repeated over the frames of its block.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from codecvq.errors import TokensError, nearest
from codecvq.tokens.card import Card, read_card
from codecvq.tokens.rows import RowGroup, TokenFailure, TokenRow
from codecvq.tokens.shard import SHARD_NAME, Shard, shard_name


class TokenDataset:
    """The rows of a token dataset (see `read_tokens`), in order. Supports iteration, `len`, access by id."""

    def __init__(self, folder: str | Path, shards: Sequence[Shard], card: Card) -> None:
        self.folder = Path(folder)
        self.shards = tuple(shards)
        self.card = card
        self._positions: dict[str, tuple[Shard, int]] | None = None
        self._cached_group: tuple[tuple[Path, int], RowGroup] | None = None

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def __iter__(self) -> Iterator[TokenRow]:
        return (row for shard in self.shards for row in shard.rows())

    def __contains__(self, id: object) -> bool:
        return id in self._index

    def __getitem__(self, id: str) -> TokenRow:
        """Return the row of a clip; raises TokensError for an unknown id or a damaged row."""
        self.require(id)
        shard, position = self._index[id]
        starts = [0, *accumulate(shard.group_sizes)]
        group = bisect_right(starts, position) - 1
        if self._cached_group is None or self._cached_group[0] != (shard.path, group):
            self._cached_group = ((shard.path, group), shard.group(group))
        row = self._cached_group[1][position - starts[group]]
        if row.id != id:
            raise TokensError(f"{shard.path} is damaged: clip {id!r} is not at its position. Tokenize again.")
        return row

    def require(self, id: str) -> None:
        """Raise TokensError if there is no row with this id."""
        if id not in self._index:
            raise TokensError(f"{self.folder} has no clip {id!r}.{nearest(id, self._index)}")

    @property
    def ids(self) -> list[str]:
        """The ids of all rows, in order."""
        return list(self._index)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        return tuple(dict.fromkeys(shard.split for shard in self.shards))

    @property
    def failures(self) -> list[TokenFailure]:
        """Clips that could not be tokenized."""
        return [failure for shard in self.shards for failure in shard.failures]

    def split(self, name: str) -> TokenDataset:
        """Return the rows of one split; raises TokensError for an unknown split."""
        if name not in self.splits:
            raise TokensError(
                f"{self.folder} has no split {name!r}, only "
                f"{', '.join(self.splits)}.{nearest(name, self.splits)}"
            )
        return TokenDataset(self.folder, [shard for shard in self.shards if shard.split == name], self.card)

    @property
    def _index(self) -> dict[str, tuple[Shard, int]]:
        if self._positions is None:
            positions: dict[str, tuple[Shard, int]] = {}
            for shard in self.shards:
                for position, id in enumerate(shard.ids()):
                    if id in positions:
                        raise TokensError(f"{shard.path}: clip {id!r} occurs twice. Tokenize again.")
                    positions[id] = (shard, position)
            self._positions = positions
        return self._positions


def expected_shards(folder: Path, card: Card) -> Iterator[Path]:
    """Yield the paths of all shards of the complete dataset, in order."""
    for split, count in card.job.shards.items():
        for index in range(count):
            yield folder / "data" / shard_name(split, index, count)


def missing_shards(folder: Path, card: Card) -> int:
    """Return the number of shards that are missing.

    The time depends on the number of files in the folder, not on the number of shards in the card.
    """
    present = 0
    for path in (folder / "data").glob("[!.]*.parquet"):
        if name := SHARD_NAME.fullmatch(path.name):
            index, count = int(name["index"]), card.job.shards.get(name["split"], 0)
            expected = index < count and path.name == shard_name(name["split"], index, count)
            present += expected and path.exists()
    return sum(card.job.shards.values()) - present


def read_tokens(folder: str | Path) -> TokenDataset:
    """Open the token dataset in a folder; raises TokensError if shards are missing or of another dataset."""
    folder = Path(folder)
    card = read_card(folder)
    missing = missing_shards(folder, card)
    if missing:
        first = next(path for path in expected_shards(folder, card) if not path.exists())
        raise TokensError(
            f"{folder} is incomplete: {missing} of {sum(card.job.shards.values())} shards are missing, the "
            f"first is {first.name}. Run the same tokenize command again to complete it."
        )
    return TokenDataset(folder, [open_shard(path, card) for path in expected_shards(folder, card)], card)


def open_shard(path: Path, card: Card) -> Shard:
    """Open a shard of the dataset with this card; raises TokensError for a shard of another dataset."""
    shard = Shard.open(path)
    if shard.card != card:
        raise TokensError(
            f"{shard.path} is of codec {shard.card.codec!r}, codebooks {shard.card.codebooks_sha256[:12]}, "
            f"or of another job; the dataset is of {card.codec!r}, {card.codebooks_sha256[:12]}. Move the "
            "shard to another folder and tokenize again."
        )
    return shard

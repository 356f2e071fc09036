"""Validation of a whole token dataset: reads every row and lists all problems."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from codecvq.errors import TokensError
from codecvq.tokens.card import read_card
from codecvq.tokens.dataset import TokenDataset, read_tokens
from codecvq.tokens.plan import PIECE_ID


@dataclass(frozen=True)
class CheckResult:
    """The result of `check`; the dataset is valid if `problems` is empty."""

    rows: int
    failures: int
    hours: float
    problems: tuple[str, ...]


def check(folder: str | Path) -> CheckResult:
    """Read and validate every row of a dataset.

    Raises TokensError only if the card is missing or cannot be read; other problems are in the result.
    """
    folder = Path(folder)
    card = read_card(folder)
    try:
        dataset = read_tokens(folder)
    except TokensError as error:
        return CheckResult(0, 0, 0.0, (str(error),))
    problems = _unexpected_files(dataset)
    seen: set[str] = set()
    clips: set[str] = set()
    rows = samples = 0
    for shard in dataset.shards:
        for index in range(len(shard.groups)):
            try:
                group = shard.group(index)
                valid_rows = [group[i] for i in range(len(group)) if i not in group.problems]
            except TokensError as error:
                problems.append(str(error))
                continue
            problems += [f"{shard.path.name}: {problem}" for problem in group.problems.values()]
            for id in group.ids:
                problems += [f"{shard.path.name}: clip {id!r} occurs twice"] if id in seen else []
                seen.add(id)
                clips.add(_clip_of(id) if card.job.max_seconds is not None else id)
            rows, samples = rows + len(group), samples + sum(row.num_samples for row in valid_rows)
    failures = len(dataset.failures)
    if len(clips) + failures != card.job.clips:
        problems.append(
            f"rows of {len(clips)} clips and {failures} failures, but the job has {card.job.clips} clips"
        )
    return CheckResult(rows, failures, samples / card.sample_rate / 3600, tuple(problems))


def _clip_of(row_id: str) -> str:
    piece = PIECE_ID.fullmatch(row_id)
    return piece["clip"] if piece else row_id


def _unexpected_files(dataset: TokenDataset) -> list[str]:
    """Return a problem for each Parquet file in `data` that is not a shard of this dataset."""
    shard_names = {shard.path.name for shard in dataset.shards}
    files = {path.name for path in (dataset.folder / "data").glob("[!.]*.parquet")}
    return [f"data/{name!r} is not a shard of this dataset" for name in sorted(files - shard_names)]

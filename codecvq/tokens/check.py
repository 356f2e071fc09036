"""The check of a whole token dataset: every row is read, and all that is wrong is listed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from codecvq.errors import TokensError
from codecvq.tokens.card import read_card
from codecvq.tokens.dataset import TokenDataset, read_tokens


@dataclass(frozen=True)
class CheckResult:
    """What `check` found; without problems the dataset is as it should be."""

    rows: int
    failures: int
    hours: float
    problems: tuple[str, ...]


def check(folder: str | Path) -> CheckResult:
    """The result of reading every row of a dataset and checking what must hold of each. Raises TokensError
    where it has no card, or one that cannot be read.
    """
    folder = Path(folder)
    card = read_card(folder)
    try:
        dataset = read_tokens(folder)
    except TokensError as error:
        return CheckResult(0, 0, 0.0, (str(error),))
    problems = _unexpected_files(dataset)
    seen: set[str] = set()
    rows = samples = 0
    for shard in dataset.shards:
        for index in range(len(shard.groups)):
            try:
                group = shard.group(index)
                found = [group[i] for i in range(len(group)) if i not in group.problems]
            except TokensError as error:
                problems.append(str(error))
                continue
            problems += [f"{shard.path.name}: {problem}" for problem in group.problems.values()]
            for id in group.ids:
                problems += [f"{shard.path.name}: clip {id!r} is there twice"] if id in seen else []
                seen.add(id)
            rows, samples = rows + len(group), samples + sum(row.num_samples for row in found)
    failures = len(dataset.failures)
    if rows + failures != card.job.clips:
        problems.append(f"{rows} rows and {failures} failures are not the {card.job.clips} clips of the job")
    return CheckResult(rows, failures, samples / card.sample_rate / 3600, tuple(problems))


def _unexpected_files(dataset: TokenDataset) -> list[str]:
    """Files that lie among the shards and are none."""
    known = {shard.path.name for shard in dataset.shards}
    files = {path.name for path in (dataset.folder / "data").glob("[!.]*.parquet")}
    return [f"data/{name!r} is no shard of this dataset" for name in sorted(files - known)]

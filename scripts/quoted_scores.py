"""Scores that were published with a set of clips, as rows for a model card.

    python scripts/quoted_scores.py eval20/clips.jsonl lyra2_3.2 opus6_60ms

prints the scores under `baselines` in the rows of the manifest, by `group`, in the format of `codecvq
compare`: means over clips with 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from codecvq.evaluation.interval import mean_of
from codecvq.evaluation.result import format_value

COLUMNS = {  # column of codecvq -> key in the manifest, unit
    "pesq_wb": ("pesq", "MOS-LQO"),
    "stoi": ("stoi", ""),
    "estoi": ("estoi", ""),
    "visqol": ("visqol", "MOS-LQO"),
    "dnsmos": ("ovrl_mos", ""),
}


def _cell(values: list[float], unit: str) -> str:
    mean = mean_of(values)
    assert mean.value is not None
    assert mean.low is not None
    assert mean.high is not None
    low, high = format_value(mean.low, unit), format_value(mean.high, unit)
    return f"{format_value(mean.value, unit)} ({low} – {high})"


def main() -> None:
    """Print the rows of the codecs on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("codecs", nargs="+")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.manifest.read_text(encoding="utf-8").splitlines()]
    for group in sorted({row["group"] for row in rows}):
        of_group = [row["baselines"] for row in rows if row["group"] == group]
        print(f"\n{group}: {len(of_group)} clips; mean (95 % interval)\n")
        print(f"| codec | kbit/s | {' | '.join(COLUMNS)} |")
        print("| --- " * (2 + len(COLUMNS)) + "|")
        for codec in arguments.codecs:
            rate = sum(row[codec]["kbps"] for row in of_group) / len(of_group)
            cells = [
                _cell([row[codec][column] for row in of_group], unit) for column, unit in COLUMNS.values()
            ]
            print(f"| {codec} | {rate:.2f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

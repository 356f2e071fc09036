"""`loss.csv` in the run folder: step and total loss, one row per logged step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codecvq import TrainRun

HEADER = "step,loss"


def begin(run: TrainRun) -> None:
    """Keep the rows up to the first step of this run; drop rows of steps that will be repeated."""
    path = run.folder.path / "loss.csv"
    rows = path.read_text(encoding="utf-8").splitlines()[1:] if path.is_file() else []
    previous = [row for row in rows if int(row.partition(",")[0]) <= run.first_step]
    path.write_text("\n".join([HEADER, *previous]) + "\n", encoding="utf-8")
    run.state["ternary_loss_table"] = path


def add(run: TrainRun, step: int, scalars: Mapping[str, float]) -> None:
    """Append a row if a total loss was logged."""
    if "loss/total" in scalars:
        with run.state["ternary_loss_table"].open("a", encoding="utf-8") as file:
            file.write(f"{step},{scalars['loss/total']:.6g}\n")

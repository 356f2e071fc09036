"""Writes the scalars of a training as TensorBoard events: a plugin like any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from codecvq.hookspecs import hookimpl

if TYPE_CHECKING:
    from codecvq.training.run import TrainRun


@hookimpl
def codecvq_train_start(run: TrainRun) -> None:
    """Open the event file; a resumed run hides what came after its checkpoint."""
    from torch.utils.tensorboard import SummaryWriter

    run.state["board"] = SummaryWriter(str(run.folder.path / "tensorboard"), purge_step=run.first_step)


@hookimpl
def codecvq_train_logged(run: TrainRun, step: int, scalars: Mapping[str, float]) -> None:
    """Add every scalar."""
    writer = run.state["board"]
    for name, value in scalars.items():
        writer.add_scalar(name, value, step)
    writer.flush()

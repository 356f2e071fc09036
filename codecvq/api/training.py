"""What the hooks of training get."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class ValidationSample:
    """A validation clip and what the codec made of it."""

    id: str
    sample_rate: int  # Hz
    reference: npt.NDArray[np.float32]  # [S]
    decoded: npt.NDArray[np.float32]  # [S]


class Folder(Protocol):
    """The folder of a run."""

    @property
    def path(self) -> Path:
        """Where it is; a plugin may write files of its own there."""

    @property
    def metrics_file(self) -> Path:
        """The scalars of the training: one JSON object a line, with "step"."""


@dataclass
class TrainRun:
    """A training, for the hooks `codecvq_train_start` and `codecvq_train_logged`."""

    folder: Folder
    recipe: Any  # the `codecvq.training.recipe.Recipe`, which is of a higher room
    first_step: int  # 0, or where a resumed training goes on
    last_step: int
    validation_samples: list[ValidationSample] = field(default_factory=list)  # of the step logged now
    state: dict[str, Any] = field(default_factory=dict)  # a plugin's own things, under its own name

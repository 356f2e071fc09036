"""Arguments of the training hooks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class ValidationSample:
    """A validation clip and its reconstruction by the codec."""

    id: str
    sample_rate: int  # Hz
    reference: npt.NDArray[np.float32]  # [S]
    decoded: npt.NDArray[np.float32]  # [S]


class Folder(Protocol):
    """The folder of a run."""

    @property
    def path(self) -> Path:
        """Path of the folder. A plugin may write its own files there."""

    @property
    def metrics_file(self) -> Path:
        """Path of the file of training metrics: one JSON object per line, each with the key "step"."""


@dataclass
class TrainRun:
    """A training run, as passed to the hooks `codecvq_train_start` and `codecvq_train_logged`."""

    folder: Folder
    recipe: Any  # a `codecvq.training.recipe.Recipe`, which this package cannot import
    first_step: int  # 0, or the step at which a run resumes
    last_step: int
    validation_samples: list[ValidationSample] = field(default_factory=list)  # of the step logged now
    state: dict[str, Any] = field(default_factory=dict)  # plugins' own data, each under its own key

"""Validation of the names of experiment trackers of accelerate, such as wandb."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from codecvq.errors import RecipeError, nearest


def check_trackers(names: Sequence[str]) -> None:
    """Raise RecipeError for an unknown tracker, or one that is not installed.

    accelerate skips trackers that are not installed without a warning.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = sorted(LOGGER_TYPE_TO_CLASS)
            raise RecipeError(
                f"training.trackers contains {name!r}; available are {', '.join(known)}."
                f"{nearest(name, known)}"
            )
        if importlib.util.find_spec(name) is None:
            raise RecipeError(
                f"training.trackers contains {name}, which is not installed. Install it with: "
                f"pip install {name}"
            )

"""Where curves are sent besides the run folder: accelerate's trackers, as wandb."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from codecvq.errors import RecipeError, nearest


def check_trackers(names: Sequence[str]) -> None:
    """Raise RecipeError for a tracker that accelerate does not know, or would leave out without a word."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = sorted(LOGGER_TYPE_TO_CLASS)
            raise RecipeError(
                f"training.trackers names {name!r}, which is none of {', '.join(known)}."
                f"{nearest(name, known)}"
            )
        if importlib.util.find_spec(name) is None:
            raise RecipeError(
                f"training.trackers names {name}, which is not installed. Install it with: pip install {name}"
            )

"""Plugin that warns of codebook collapse and of discriminators that are too strong or too weak."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from codecvq.api.hookspecs import PROJECT, hookimpl

if TYPE_CHECKING:
    from codecvq.api.training import TrainRun

logger = logging.getLogger(PROJECT)

MIN_USAGE = 0.05  # fraction of used codes; see `is_collapsed`
REPEAT_AFTER = 500  # steps until the warning is repeated for the same codebook
SKIPPED_STEPS = 20  # steps at the start without warnings
WINNING, GUESSING = 0.98, 0.51  # win rates above or below which discriminators give no useful gradient
WINDOW = 10  # consecutive logged win rates


@hookimpl
def codecvq_train_start(run: TrainRun) -> None:
    """Initialize the state of this plugin."""
    run.state["codebook_watch"] = {}
    run.state["discriminator_watch"] = []


@hookimpl
def codecvq_train_logged(run: TrainRun, step: int, scalars: Mapping[str, float]) -> None:
    """Warn of codebooks with few used codes, and of discriminators with extreme win rates."""
    _check_discriminators(run.state["discriminator_watch"], step, scalars)
    warned: dict[str, int] = run.state["codebook_watch"]
    for name, perplexity in scalars.items():
        if not name.startswith("codebook/perplexity/") or step < SKIPPED_STEPS:
            continue
        n = name.rpartition("/")[2]
        usage = scalars.get(f"codebook/usage/{n}", 1.0)
        if not is_collapsed(perplexity, usage) or step < warned.get(n, -REPEAT_AFTER) + REPEAT_AFTER:
            continue
        warned[n] = step
        logger.warning(
            "CODEBOOK COLLAPSE at step %d: codebook %s uses %.1f %% of its codes, perplexity %.2f. Lower the "
            "learning rate or the commitment weight, enable dead-code replacement, or use fsq.",
            step,
            n,
            100 * usage,
            perplexity,
        )


def is_collapsed(perplexity: float, usage: float) -> bool:
    """Whether a codebook carries little information: only one code, or a few codes used unevenly."""
    return perplexity < 1.05 or (usage < MIN_USAGE and perplexity < math.e**2)


def _check_discriminators(rates: list[float], step: int, scalars: Mapping[str, float]) -> None:
    """Warn if the last `WINDOW` win rates are all too high or all too low; then reset the window."""
    if "discriminator/win_rate" not in scalars:
        return
    rates.append(scalars["discriminator/win_rate"])
    del rates[:-WINDOW]
    if len(rates) < WINDOW:
        return
    if min(rates) > WINNING:
        text = (
            "DISCRIMINATORS WIN at step %d: they have distinguished recorded from decoded audio in more than "
            "%.0f %% of cases for a long time, so their gradient has little information. Lower "
            "discriminator.optimizer.learning_rate, or raise discriminator.every_step."
        )
        logger.warning(text, step, 100 * WINNING)
        rates.clear()
    elif max(rates) < GUESSING:
        text = (
            "DISCRIMINATORS GUESS at step %d: their win rate has been below %.0f %% for a long time, so "
            "their gradient is not useful. Raise discriminator.optimizer.learning_rate, or use more filters."
        )
        logger.warning(text, step, 100 * GUESSING)
        rates.clear()

"""Watches a training and warns, loudly, when a codebook collapses or discriminators win or give up: a plugin
like any other.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from codecvq.api.hookspecs import PROJECT, hookimpl

if TYPE_CHECKING:
    from codecvq.api.training import TrainRun

logger = logging.getLogger(PROJECT)

MIN_USAGE = 0.05  # of the evenly used codebook's perplexity, in nats' exponent: below it is collapse
REPEAT_AFTER = 500  # steps until the same codebook is warned about again
SKIPPED_STEPS = 20  # steps at the start
WINNING, GUESSING = 0.98, 0.51  # win rates of discriminators from which the codec learns nothing
WINDOW = 10  # times logged in a row


@hookimpl
def codecvq_train_start(run: TrainRun) -> None:
    """Remember nothing yet."""
    run.state["codebook_watch"] = {}
    run.state["discriminator_watch"] = []


@hookimpl
def codecvq_train_logged(run: TrainRun, step: int, scalars: Mapping[str, float]) -> None:
    """Warn about each codebook of which, lately, hardly any code is chosen, and about discriminators that
    have won or given up.
    """
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
            "CODEBOOK COLLAPSE at step %d: codebook %s uses %.1f %% of its codes, perplexity %.2f. The codec "
            "is losing this "
            "codebook. Lower the learning rate or the commitment weight, switch dead-code replacement on, or "
            "take fsq.",
            step,
            n,
            100 * usage,
            perplexity,
        )


def is_collapsed(perplexity: float, usage: float) -> bool:
    """Whether a codebook carries next to nothing: one code only, or few of those there are, unevenly."""
    return perplexity < 1.05 or (usage < MIN_USAGE and perplexity < math.e**2)


def _check_discriminators(rates: list[float], step: int, scalars: Mapping[str, float]) -> None:
    """Warn when the last `WINDOW` win rates all say the same; then begin to count anew."""
    if "discriminator/win_rate" not in scalars:
        return
    rates.append(scalars["discriminator/win_rate"])
    del rates[:-WINDOW]
    if len(rates) < WINDOW:
        return
    if min(rates) > WINNING:
        text = (
            "DISCRIMINATORS WIN at step %d: for long they have told recorded from decoded audio in more than "
            "%.0f %% of cases, so their gradient says little. Lower discriminator.optimizer.learning_rate, "
            "or raise discriminator.every_step."
        )
        logger.warning(text, step, 100 * WINNING)
        rates.clear()
    elif max(rates) < GUESSING:
        text = (
            "DISCRIMINATORS GUESS at step %d: for long their win rate has been below %.0f %%, so they teach "
            "the codec nothing. Raise discriminator.optimizer.learning_rate, or give them more filters."
        )
        logger.warning(text, step, 100 * GUESSING)
        rates.clear()

"""Watches the codebooks of a training and warns, loudly, when one collapses: a plugin like any other."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from codecvq.hookspecs import PROJECT, hookimpl

if TYPE_CHECKING:
    from codecvq.training.run import TrainRun

logger = logging.getLogger(PROJECT)

LEAST_SHARE = 0.05  # of the evenly used codebook's perplexity, in nats' exponent: below it is collapse
AGAIN_AFTER = 500  # steps until the same codebook is warned about again
GRACE = 20  # steps at the start


@hookimpl
def codecvq_train_start(run: TrainRun) -> None:
    """Remember nothing yet."""
    run.state["codebook_watch"] = {}


@hookimpl
def codecvq_train_logged(run: TrainRun, step: int, scalars: Mapping[str, float]) -> None:
    """Warn about each codebook of which, lately, hardly any code is chosen."""
    warned: dict[str, int] = run.state["codebook_watch"]
    for name, perplexity in scalars.items():
        if not name.startswith("codebook/perplexity/") or step < GRACE:
            continue
        n = name.rpartition("/")[2]
        usage = scalars.get(f"codebook/usage/{n}", 1.0)
        if not collapsed(perplexity, usage) or step < warned.get(n, -AGAIN_AFTER) + AGAIN_AFTER:
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


def collapsed(perplexity: float, usage: float) -> bool:
    """Whether a codebook carries next to nothing: one code only, or few of those there are, unevenly."""
    return perplexity < 1.05 or (usage < LEAST_SHARE and perplexity < math.e**2)

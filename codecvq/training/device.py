"""Precision and number of threads chosen for this machine by `auto`."""

from __future__ import annotations

import os
import sys

import torch

from codecvq.errors import RunError
from codecvq.processor import processor_flags
from codecvq.training.recipe import Recipe
from codecvq.training.run import RunFolder

MATRIX_BF16 = {
    "amx_bf16",
    "avx512_bf16",
    "bf16",
}  # flags of x86 and Arm processors that multiply bfloat16 in hardware


def resolve_auto(recipe: Recipe, folder: RunFolder) -> tuple[Recipe, RunFolder]:
    """Replace `auto` precision and threads in a recipe.

    Takes the values of an existing run, else the best values for this machine. Raises RunError for fp16
    without a GPU.
    """
    earlier = folder.recipe().training if folder.recipe_file.is_file() else None
    precision: str = recipe.training.precision
    threads = recipe.training.threads
    if precision == "auto":
        precision = earlier.precision if earlier else best_precision()
    if threads is None:  # as in the run, since floating-point sums depend on it; at most those usable now
        threads = min(usable_threads(), earlier.threads if earlier and earlier.threads else sys.maxsize)
    if precision == "fp16" and not torch.accelerator.is_available():
        raise RunError(
            "training.precision is fp16, which needs a GPU. Use bf16, fp32, or auto for the faster of them."
        )
    training = recipe.training.model_copy(update={"precision": precision, "threads": threads})
    return recipe.model_copy(update={"training": training}), folder


def best_precision() -> str:
    """ "bf16" if the hardware multiplies bfloat16, else "fp32"."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if MATRIX_BF16 & processor_flags() else "fp32"


def usable_threads() -> int:
    """Number of threads that this process may use.

    This is OMP_NUM_THREADS if the user set it. Otherwise it is the number of processors available, divided by
    the number of processes that a launcher started on this machine. torchrun sets OMP_NUM_THREADS to 1 for
    several processes, which leaves most processors idle; under torchrun, 1 therefore counts as not set. Set
    `training.threads` to 1 for one thread in all cases.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = _positive_int("LOCAL_WORLD_SIZE") or 1
    requested = _positive_int("OMP_NUM_THREADS")
    if requested and not (requested == 1 and processes > 1 and "TORCHELASTIC_RUN_ID" in os.environ):
        return requested
    return max(1, processors // processes)


def _positive_int(variable: str) -> int | None:
    """Positive integer in an environment variable; None for any other value."""
    first = (
        os.environ.get(variable, "").partition(",")[0].strip()
    )  # OMP_NUM_THREADS may have one number per nesting level
    return int(first) if first.isascii() and first.isdigit() and 0 < int(first) < 4096 else None

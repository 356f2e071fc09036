"""What the machine at hand can do: the precision and the threads that `auto` stands for."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from codecvq.errors import RunError
from codecvq.training.recipe import Recipe
from codecvq.training.run import RunFolder

MATRIX_BF16 = {
    "amx_bf16",
    "avx512_bf16",
    "bf16",
}  # flags of x86 and Arm processors that multiply bfloat16 in hardware


def settled(recipe: Recipe, folder: RunFolder) -> tuple[Recipe, RunFolder]:
    """The recipe with `auto` precision and threads made definite: those of the run where it exists, else of
    this machine. Raises RunError for fp16 without a GPU.
    """
    before = folder.recipe().training if folder.recipe_file.is_file() else None
    precision: str = recipe.training.precision
    threads = recipe.training.threads
    if precision == "auto":
        precision = before.precision if before else best_precision()
    if threads is None:
        threads = before.threads if before else usable_threads()
    if precision == "fp16" and not torch.accelerator.is_available():
        raise RunError(
            "training.precision is fp16, which needs a GPU. Take bf16, fp32, or auto for the faster of them."
        )
    training = recipe.training.model_copy(update={"precision": precision, "threads": threads})
    return recipe.model_copy(update={"training": training}), folder


def best_precision() -> str:
    """ "bf16" where the hardware multiplies bfloat16, else "fp32"."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if MATRIX_BF16 & _processor_flags() else "fp32"


def usable_threads() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return set()
    return {
        flag
        for line in lines
        if line.lower().startswith(("flags", "features"))
        for flag in line.split(":", 1)[1].split()
    }

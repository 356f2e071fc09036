"""The lines that a training prints at its start."""

from __future__ import annotations

from accelerate import Accelerator

from codecvq.data import SPLITS, Corpus
from codecvq.training.recipe import TrainingSection


def startup_lines(config: TrainingSection, accelerator: Accelerator, corpus: Corpus) -> list[str]:
    """Return one line about the processes and one about the amount of speech in each split."""
    count, threads = accelerator.num_processes, config.threads or 1
    processes = "1 process" if count == 1 else f"{count} processes"
    line = f"{processes} on {accelerator.device.type}, {config.precision}, {threads} thread"
    line += ("" if threads == 1 else "s") + ("" if count == 1 else " each")
    if config.workers:
        line += f", {config.workers} workers for the data"
    speech = ", ".join(f"{split} {_describe_split(corpus.split(split))}" for split in SPLITS)
    return [line, f"corpus {corpus.name}: {speech}"]


def _describe_split(corpus: Corpus) -> str:
    if not len(corpus):
        return "none"
    minutes = corpus.duration_s / 60
    speech = f"{minutes / 60:.1f} h" if minutes >= 120 else f"{minutes:.1f} min"
    return f"{speech} in {len(corpus)} clip{'' if len(corpus) == 1 else 's'}"

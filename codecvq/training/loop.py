"""The training, read from top to bottom: prepare, resume, then step after step.

Everything that a step hangs on is either in the checkpoint (weights, optimizer, random numbers) or a function
of its number (batch, learning rate). So a training that was killed and resumed ends with the weights of one
that was not, bit for bit, given the same processor and number of threads.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from codecvq.codec import Codec
from codecvq.errors import RecipeError, RunError
from codecvq.plugins import PROJECT, registry
from codecvq.training.checkpoint import Checkpoint, clear_leftovers, last_checkpoint, save_checkpoint
from codecvq.training.corpus import Clip, ClipFailure, Corpus, open_corpus, write_split
from codecvq.training.device import best_precision, usable_threads
from codecvq.training.losses import build_losses
from codecvq.training.recipe import CorpusSection, OptimizerSection, Recipe
from codecvq.training.run import RunFolder, TrainRun
from codecvq.training.segments import Segments
from codecvq.training.usage import CodebookUse
from codecvq.training.validation import validate

logger = logging.getLogger(PROJECT)

Report = Callable[["Moment"], None]


@dataclass(frozen=True)
class Moment:
    """Where a training is: for a progress line."""

    step: int  # steps done
    steps: int  # of all
    scalars: Mapping[str, float]  # the last ones logged
    seconds_left: float | None


@dataclass(frozen=True)
class Trained:
    """How a training ended."""

    folder: RunFolder
    steps: int
    resumed_at: int  # step; 0 for one that was not resumed
    seconds: float  # of this process
    skipped: int  # steps with NaN or infinity
    failures: tuple[ClipFailure, ...]  # clips that could not be read


def train(recipe: Recipe, path: str | Path, report: Report | None = None) -> Trained:
    """Train `recipe` into the run folder `path`, going on from its last checkpoint if there is one.

    Sets the number of torch's threads. Raises RunError when the folder is of another recipe, or when too many
    steps in a row give NaN or infinity.
    """
    started = time.monotonic()
    recipe, folder = _settled(recipe, RunFolder(Path(path)))
    folder.check(recipe)
    torch.set_num_threads(recipe.training.threads or 1)
    # accelerate holds a process to its first precision: a notebook trains again
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision={"fp32": "no"}.get(recipe.training.precision, recipe.training.precision)
    )
    # before the folder is made: a missing corpus leaves nothing behind
    trainer = Trainer(recipe, folder, accelerator)
    if accelerator.is_main_process:
        folder.begin(recipe)
        clear_leftovers(folder.checkpoints)
        write_split(trainer.corpus, folder.path / "split.jsonl")
    accelerator.wait_for_everyone()
    first = trainer.resume()
    if first < recipe.training.steps:
        trainer.run(first, report or (lambda moment: None))
    return Trained(
        folder, recipe.training.steps, first, time.monotonic() - started, trainer.skipped, trainer.failures
    )


def build_codec(recipe: Recipe, name: str = "codec") -> Codec:
    """A new codec as the recipe describes it, seeded by it."""
    torch.manual_seed(recipe.training.seed)
    return Codec(
        sample_rate=recipe.sample_rate,
        channels=recipe.channels,
        network=recipe.network,
        quantizer=recipe.quantizer,
        name=name,
    )


def open_recipe_corpus(section: CorpusSection) -> Corpus:
    """The corpus that a recipe names."""
    return open_corpus(
        section.name,
        folder=section.folder,
        manifest=section.manifest,
        root=section.root,
        split_by=section.split_by,
        speakers=section.speakers,
        exclude_speakers=section.exclude_speakers,
    )


def learning_rate(config: OptimizerSection, step: int, steps: int) -> float:
    """Of step `step` of `steps`: linear warm-up, then half a cosine down to `final_ratio`."""
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    progress = max(0.0, (step - config.warmup_steps) / max(1, steps - config.warmup_steps))
    fall = config.final_ratio + (1 - config.final_ratio) * (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * warm * fall


class Means:
    """Means of scalars since they were last taken; a step that was skipped adds none."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, scalars: Mapping[str, float]) -> None:
        """Add the scalars of a step."""
        for name, value in scalars.items():
            self._values.setdefault(name, []).append(value)

    def take(self) -> dict[str, float]:
        """The means, to begin anew."""
        means = {name: sum(values) / len(values) for name, values in self._values.items()}
        self._values = {}
        return means


class Pace:
    """How long a step takes lately, checkpoints and validation left out."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=100)
        self._since = time.monotonic()

    def tick(self) -> None:
        """A step has ended."""
        self._times.append(time.monotonic() - self._since)

    def rest(self) -> None:
        """The next step begins now."""
        self._since = time.monotonic()

    @property
    def step_s(self) -> float:
        """Seconds a step, the median."""
        return median(self._times)


class Trainer:
    """One process of a training."""

    def __init__(self, recipe: Recipe, folder: RunFolder, accelerator: Accelerator) -> None:
        self.recipe, self.folder, self.accelerator = recipe, folder, accelerator
        self.config = recipe.training
        self.corpus = open_recipe_corpus(recipe.corpus)
        self.codec = build_codec(recipe, name=folder.path.resolve().name)
        self.usage = CodebookUse(self.codec.codebook_sizes)
        losses, self.weights = build_losses(recipe.losses, recipe.sample_rate)
        self.losses = losses.to(accelerator.device)
        optimizer = torch.optim.AdamW(
            self.codec.parameters(),
            lr=recipe.optimizer.learning_rate,
            betas=recipe.optimizer.betas,
            weight_decay=recipe.optimizer.weight_decay,
            fused=True,  # a quarter of the time of a step of the plain one on a CPU
        )
        self.model, self.optimizer = accelerator.prepare(self.codec, optimizer)
        self.segments = self._segments(self.corpus)
        self.validation_clips = _spread(self.corpus.split("validation").clips, self.config.validation_clips)
        self.skipped = 0
        self.bad_in_a_row = 0

    @property
    def failures(self) -> tuple[ClipFailure, ...]:
        """Clips that could not be read so far, each once."""
        return tuple(
            {failure.id: failure for failure in (*self.corpus.failures, *self.segments.failures)}.values()
        )

    def _segments(self, corpus: Corpus) -> Segments:
        whole = self.recipe.corpus.segment_s * self.recipe.sample_rate / self.codec.hop_length
        if abs(whole - round(whole)) > 1e-6:
            raise RecipeError(
                f"corpus.segment_s is {self.recipe.corpus.segment_s}, which is {whole:.2f} frames of "
                f"{self.codec.hop_length} "
                f"samples at {self.recipe.sample_rate} Hz. Set it to "
                f"{round(whole) * self.codec.hop_length / self.recipe.sample_rate:g}."
            )
        return Segments(
            corpus.split("train"),
            self.recipe.sample_rate,
            self.recipe.corpus.segment_s,
            self.config.batch_size,
            self.config.seed,
            augment=self.recipe.corpus.augment,
            cache_bytes=int(self.recipe.corpus.cache_gb * 1e9),
        )

    def run(self, first: int, report: Report) -> None:
        """Steps `first` … the last, with logging, validation and checkpoints."""
        run = TrainRun(self.folder, self.recipe, first, self.config.steps)
        if self.accelerator.is_main_process:
            self.folder.forget_after(first)
            registry().call("codecvq_train_start", run=run)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        means, pace = Means(), Pace()
        scalars: dict[str, float] = {}
        for step, wav in self.segments.prefetch(first, self.config.steps, rank, world):
            means.add(self.step(step, torch.from_numpy(wav).to(self.accelerator.device)))
            pace.tick()
            done = step + 1
            last = done == self.config.steps
            if self.accelerator.is_main_process:
                validated = self._validate() if last or done % self.config.validate_every == 0 else {}
                if validated or last or done % self.config.log_every == 0:
                    scalars = self._log(run, done, means.take() | validated, pace)
                report(Moment(done, self.config.steps, scalars, pace.step_s * (self.config.steps - done)))
            if last or done % self.config.checkpoint_every == 0:
                self.save(done)
            pace.rest()

    def step(self, step: int, wav: Tensor) -> dict[str, float]:
        """One step on audio `[B, C, S]`: the scalars that it gave; weights stay as they are where NaN or
        infinity came up.
        """
        rate = learning_rate(self.recipe.optimizer, step, self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        out = self.model(wav)
        terms = {name: self.weights[name] * loss(out.wav, wav) for name, loss in self.losses.items()}
        terms |= out.quantized.losses
        total = torch.stack([term.float() for term in terms.values()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(total)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.max_grad_norm)
        assert norm is not None, "clip_grad_norm_ gives the norm"
        if not math.isfinite(float(norm)):  # the same on all ranks: gradients have been reduced
            self._skip(step, terms)
            return {}
        self.bad_in_a_row = 0
        self.optimizer.step()
        self.usage.add(out.quantized.codes)
        found = {f"loss/{name}": float(term.detach()) for name, term in terms.items()}
        found |= {
            f"quantizer/{name}": float(value)
            for name, value in out.quantized.metrics.items()
            if _is_own(name)
        }
        return found | {
            "loss/total": float(total.detach()),
            "gradient/norm": float(norm),
            "optimizer/learning_rate": rate,
        }

    def _skip(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """Count a step that gave NaN or infinity, and say where it came from; stop after many in a row."""
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped += 1
        self.bad_in_a_row += 1
        where = _first_bad(terms, self.codec)
        logger.warning("step %d skipped: %s (%d skipped so far)", step, where, self.skipped)
        if self.bad_in_a_row >= self.config.max_bad_steps:
            raise RunError(
                f"{self.bad_in_a_row} steps in a row gave NaN or infinity, the last in {where}. Lower "
                "optimizer.learning_rate, or set training.precision=fp32. The last checkpoint in "
                f"{self.folder.checkpoints} is whole."
            )

    def _validate(self) -> dict[str, float]:
        if not self.validation_clips or "mel" not in self.losses:
            return {}
        found = validate(self.codec, self.losses["mel"], self.validation_clips)
        return {name: self.weights["mel"] * value for name, value in found.items()}

    def _log(self, run: TrainRun, done: int, found: dict[str, float], pace: Pace) -> dict[str, float]:
        scalars = found | self.usage.scalars()
        scalars["speed/steps_per_s"] = 1 / max(pace.step_s, 1e-9)
        scalars["steps/skipped"] = self.skipped
        self.folder.log(done, scalars)
        registry().call("codecvq_train_logged", run=run, step=done, scalars=scalars)
        return scalars

    # what outlives the process

    def save(self, step: int) -> None:
        """Write a checkpoint and the codec as it is now."""
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        state: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "usage": self.usage.counts,
            "skipped": self.skipped,
        }
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        save_checkpoint(
            self.folder.checkpoints,
            Checkpoint(step, self.codec.state_dict(), state),
            self.config.keep_checkpoints,
        )
        self.codec.save(self.folder.codec)

    def resume(self) -> int:
        """The step to go on from: that of the last whole checkpoint, now loaded; 0 where there is none."""
        checkpoint = last_checkpoint(self.folder.checkpoints)
        if checkpoint is None:
            return 0
        self.codec.load_state_dict(checkpoint.weights)
        self.optimizer.load_state_dict(checkpoint.state["optimizer"])
        torch.set_rng_state(checkpoint.state["random"])
        self.usage.counts = dict(checkpoint.state["usage"])
        self.skipped = checkpoint.state["skipped"]
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(checkpoint.state["scaler"])
        return checkpoint.step


def _settled(recipe: Recipe, folder: RunFolder) -> tuple[Recipe, RunFolder]:
    """The recipe with `auto` precision and threads made definite: those of the run where it exists, else of
    this machine.
    """
    before = folder.recipe().training if folder.recipe_file.is_file() else None
    precision: str = recipe.training.precision
    threads = recipe.training.threads
    if precision == "auto":
        precision = before.precision if before else best_precision()
    if threads is None:
        threads = before.threads if before else usable_threads()
    training = recipe.training.model_copy(update={"precision": precision, "threads": threads})
    return recipe.model_copy(update={"training": training}), folder


def _spread(clips: Sequence[Clip], most: int) -> list[Clip]:
    """At most `most` clips, evenly over the corpus: neighbours are of one speaker."""
    count = min(most, len(clips))
    return [clips[i * len(clips) // count] for i in range(count)]


def _is_own(metric: str) -> bool:
    """Whether a metric is of the method: perplexity and usage of one batch are logged as `codebook/…` over
    many.
    """
    return not metric.startswith(("perplexity", "usage"))


def _first_bad(terms: Mapping[str, Tensor], model: nn.Module) -> str:
    """The first loss, or else the first parameter's gradient, that is NaN or infinite."""
    for name, term in terms.items():
        if not bool(term.isfinite()):
            return f"loss {name!r} is {float(term.detach())}"
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            return f"the gradient of {name} is not finite"
    return "the gradient's norm is not finite"

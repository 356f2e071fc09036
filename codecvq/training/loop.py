"""The training, read from top to bottom: prepare, resume, then step after step.

Everything that a step hangs on is either in the checkpoint (weights, optimizers) or a function of its number
(batch, learning rate, random numbers). So a training that was killed and resumed ends with the weights of one
that was not, bit for bit, given the same processor and number of threads.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from codecvq.codec import Reconstruction
from codecvq.errors import CorpusError, RunError
from codecvq.plugins import PROJECT, registry
from codecvq.training.adversary import Adversary
from codecvq.training.average import WeightAverage
from codecvq.training.balancer import Balancer
from codecvq.training.checkpoint import Checkpoint, last_checkpoint, save_checkpoint
from codecvq.training.corpus import ClipFailure, write_split
from codecvq.training.device import settled
from codecvq.training.gradients import clipped_norm, overflowed, take_step
from codecvq.training.loading import load_batches
from codecvq.training.losses import build_losses
from codecvq.training.parts import build_codec, recipe_corpus, recipe_segments
from codecvq.training.progress import Means, Moment, Pace
from codecvq.training.recipe import Recipe
from codecvq.training.run import RunFolder, TrainRun
from codecvq.training.schedule import learning_rate
from codecvq.training.start import begin_from
from codecvq.training.trackers import check_trackers
from codecvq.training.usage import CodebookUse, chosen
from codecvq.training.validation import Validation

logger = logging.getLogger(PROJECT)

Report = Callable[["Moment"], None]


@dataclass(frozen=True)
class Trained:
    """How a training ended."""

    folder: RunFolder
    steps: int
    resumed_at: int  # step; 0 for one that was not resumed
    seconds: float  # of this process
    skipped: int  # steps with NaN or infinity
    failures: tuple[ClipFailure, ...]  # clips that could not be read
    main: bool  # whether this is the process of the training that writes and prints


def train(recipe: Recipe, path: str | Path, report: Report | None = None) -> Trained:
    """Train `recipe` into the run folder `path`, going on from its last checkpoint if there is one.

    Sets the number of torch's threads. Raises RunError when the folder is of another recipe or cannot be
    written, when its checkpoints are damaged, or when too many steps in a row give NaN or infinity.
    """
    started = time.monotonic()
    recipe, folder = settled(recipe, RunFolder(Path(path)))
    folder.check(recipe)
    check_trackers(recipe.training.trackers)
    torch.set_num_threads(recipe.training.threads or 1)
    # accelerate holds a process to its first precision: a notebook trains again
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # or processes without a GPU do not find each other
        mixed_precision={"fp32": "no"}.get(recipe.training.precision, recipe.training.precision),
        log_with=list(recipe.training.trackers) or None,
        project_dir=folder.path,
    )
    # before the folder is made: a missing corpus, or weights that do not fit, leave nothing behind
    trainer = Trainer(recipe, folder, accelerator)
    first = trainer.resume()
    trainer.agree_on(first)
    if accelerator.is_main_process:
        try:
            folder.begin(recipe, first)
            write_split(trainer.corpus, folder.path / "split.jsonl")
        except OSError as error:
            raise RunError(
                f"the run folder {folder.path} cannot be written ({error.strerror}). Make room, or give "
                "another one with --run."
            ) from error
        if first:  # a kill between a checkpoint and its codec left an older one
            trainer.save_codec(first, must=first == recipe.training.steps)
    accelerator.wait_for_everyone()
    if first < recipe.training.steps:
        trainer.run(first, report or (lambda moment: None))
    return Trained(
        folder,
        recipe.training.steps,
        first,
        time.monotonic() - started,
        trainer.skipped,
        trainer.failures,
        accelerator.is_main_process,
    )


def seed_of(seed: int, step: int, rank: int) -> int:
    """Of the random numbers that a process draws in a step, as quantizer dropout does: different for all, and
    the same whenever the step is made.
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()[:8], "big") >> 1


class Trainer:
    """One process of a training."""

    def __init__(self, recipe: Recipe, folder: RunFolder, accelerator: Accelerator) -> None:
        self.recipe, self.folder, self.accelerator = recipe, folder, accelerator
        self.config = recipe.training
        self.corpus = recipe_corpus(recipe.corpus)
        self.codec = build_codec(recipe, name=folder.path.resolve().name)
        self.segments = recipe_segments(recipe, self.corpus, self.codec.hop_length)
        self.usage = CodebookUse(self.codec.codebook_sizes)
        self.weights = recipe.losses.weights()
        self.losses = build_losses(recipe.losses, recipe.sample_rate).to(accelerator.device)
        optimizer = torch.optim.AdamW(
            self.codec.parameters(),
            lr=recipe.optimizer.learning_rate,
            betas=recipe.optimizer.betas,
            weight_decay=recipe.optimizer.weight_decay,
            fused=True,  # a quarter of the time of a step of the plain one on a CPU
        )
        self.model, self.optimizer = accelerator.prepare(self.codec, optimizer)
        if self.config.compile:
            self.model = torch.compile(self.model)
        section = recipe.discriminator
        self.adversary = Adversary(recipe, section, accelerator) if section else None
        self.average = WeightAverage(self.codec, self.config.average) if self.config.average else None
        self.balancer = self._balancer() if recipe.losses.balance else None
        self.validation = Validation(recipe, self.corpus, self.codec, self.losses, folder)
        self.skipped = 0
        self.bad_in_a_row = 0

    @property
    def failures(self) -> tuple[ClipFailure, ...]:
        """Clips that could not be read so far, each once."""
        return tuple(
            {failure.id: failure for failure in (*self.corpus.failures, *self.segments.failures)}.values()
        )

    def _balancer(self) -> Balancer:
        return Balancer(
            self.weights,
            self.recipe.losses.balance_norm,
            mean=lambda norms: self.accelerator.reduce(norms, reduction="mean"),
        )

    def run(self, first: int, report: Report) -> None:
        """Steps `first` … the last, with logging, validation and checkpoints."""
        run = TrainRun(self.folder, self.recipe, first, self.config.steps)
        if self.accelerator.is_main_process:
            registry().call("codecvq_train_start", run=run)
        self.accelerator.init_trackers("codecvq", config={"recipe": self.recipe.to_yaml()})
        means, pace = Means(), Pace()
        scalars: dict[str, float] = {}
        for step, wav in self._batches(first):
            means.add(self.step(step, wav))
            pace.tick()
            done = step + 1
            last = done == self.config.steps
            validates = last or done % self.config.validate_every == 0
            logs = validates or done % self.config.log_every == 0
            found = self._over_ranks(means.take()) if logs else {}
            if self.accelerator.is_main_process:
                if logs:
                    validated = self._validate(done) if validates else {}
                    scalars = self._log(run, done, found | validated, pace)
                report(Moment(done, self.config.steps, scalars, pace.step_s * (self.config.steps - done)))
            if last or done % self.config.checkpoint_every == 0:
                self.save(done, must=last)
            pace.rest()
        self.accelerator.wait_for_everyone()  # the main process still saves
        self.accelerator.end_training()

    def _over_ranks(self, scalars: dict[str, float]) -> dict[str, float]:
        """The means of scalars over all processes, which have the same ones."""
        if self.accelerator.num_processes == 1 or not scalars:
            return scalars
        values = torch.tensor(list(scalars.values()), device=self.accelerator.device)
        return dict(zip(scalars, self.accelerator.reduce(values, reduction="mean").tolist(), strict=True))

    def _batches(self, first: int) -> Iterator[tuple[int, Tensor]]:
        """Steps from `first` on with their audio `[B, C, S]`, on the device. Where the data are gone for any
        process, all stop at the same step, and what was learned is saved first.
        """
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        batches = load_batches(
            self.segments, first, self.config.steps, rank, world, workers=self.config.workers
        )
        for step in range(first, self.config.steps):
            lost: CorpusError | None = None
            try:
                wav = next(batches)[1]
            except CorpusError as error:
                lost = error
            if self._anywhere(lost is not None):
                if step > first:
                    self.save(step)
                saved = f"What was learned in {step} steps is saved" if step else "Nothing was learned yet"
                why = lost or "Another process cannot read its data, and says why."
                raise RunError(f"{why} {saved}: bring the data back and give the same command.") from lost
            yield step, wav.to(self.accelerator.device, non_blocking=True)

    def _anywhere(self, happened: bool) -> bool:
        """Whether it happened in any process; each has to ask."""
        if self.accelerator.num_processes == 1:
            return happened
        flag = torch.tensor(float(happened), device=self.accelerator.device)
        return float(self.accelerator.reduce(flag, reduction="sum")) > 0

    def step(self, step: int, wav: Tensor) -> dict[str, float]:
        """One step on audio `[B, C, S]`: the scalars that it gave. Where NaN or infinity came up, what learns
        by gradient stays as it is; so do codebooks that learn otherwise, if it came up before them.
        """
        rate = learning_rate(self.recipe.optimizer, step, self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        torch.manual_seed(seed_of(self.config.seed, step, self.accelerator.process_index))
        adversary = self.adversary if self.adversary and self.adversary.active(step) else None
        means, codes, seen = Means(), [], list[Mapping[str, Tensor]]()
        self.optimizer.zero_grad(set_to_none=True)
        if adversary:
            adversary.begin(step)
        for n, part in enumerate(wav.chunk(self.config.accumulate)):
            last = n == self.config.accumulate - 1
            with nullcontext() if last else self._unsynced(adversary):
                terms, out = self._pass(step, part, adversary, means)
            seen.append({name: term.detach() for name, term in terms.items()})
            codes.append(chosen(out.quantized))
        found = means.take()
        norm = clipped_norm(self.accelerator, self.optimizer, self.recipe.optimizer.max_grad_norm)
        norms = [(self.optimizer, norm)]
        if adversary:
            norms.append((adversary.optimizer, adversary.finish()))
            found["discriminator/gradient_norm"] = norms[-1][1]
        take_step(self.accelerator, norms)
        if not math.isfinite(norm):  # the same on all ranks: gradients have been reduced
            self._skip(step, seen)
            return {}
        self.bad_in_a_row = 0
        self.usage.add(self.accelerator.gather(torch.cat(codes)))
        if self.average:
            self.average.update()
        found |= {
            f"quantizer/{name}": float(value)
            for name, value in out.quantized.metrics.items()
            if _is_own(name)
        }
        if self.accelerator.scaler is not None:
            found["gradient/scale"] = self.accelerator.scaler.get_scale()
        return found | {"gradient/norm": norm, "optimizer/learning_rate": rate}

    def _pass(
        self, step: int, wav: Tensor, adversary: Adversary | None, means: Means
    ) -> tuple[dict[str, Tensor], Reconstruction]:
        """Forward and backward of audio `[b, C, S]`, a part of a step: weighted terms, and what came out."""
        out: Reconstruction = self.model(wav)
        losses = {name: loss(out.wav, wav) for name, loss in self.losses.items()}
        if adversary:
            decoded, recorded = adversary.judged(out.wav), adversary.judged(wav)
            losses |= adversary.terms(step, decoded, recorded, self.weights)
        share = 1 / self.config.accumulate
        terms = {name: self.weights[name] * loss for name, loss in losses.items()} | out.losses
        total = torch.stack([term.float() for term in terms.values()]).sum()
        if self.balancer:
            gradient = self.balancer.gradient(losses, out.wav)
            own = [term.float() for term in out.losses.values()]
            self.accelerator.backward(share * torch.stack([(out.wav * gradient).sum(), *own]).sum())
        else:
            self.accelerator.backward(share * total)
        if adversary:
            learned = adversary.learn(step, decoded, recorded, share)
            means.add({f"discriminator/{name}": float(value) for name, value in learned.items()})
        means.add({f"loss/{name}": float(term.detach()) for name, term in terms.items()})
        means.add({"loss/total": float(total.detach())})
        return terms, out

    def _unsynced(self, adversary: Adversary | None) -> ExitStack:
        """While it lasts, backward passes add up without talking to other processes."""
        stack = ExitStack()
        for module in (self.model, *(adversary.wrapped if adversary else ())):
            stack.enter_context(self.accelerator.no_sync(module))
        return stack

    def _skip(self, step: int, parts: Sequence[Mapping[str, Tensor]]) -> None:
        """Count a step that gave NaN or infinity, and say where it came from, of the terms of its parts; stop
        after many in a row. What fp16 takes to find its scale does not count.
        """
        bad = [terms for terms in parts if not all(bool(term.isfinite()) for term in terms.values())]
        if overflowed(self.accelerator, finite=not bad):
            return
        self.skipped += 1
        self.bad_in_a_row += 1
        where = _first_bad(bad[0] if bad else {}, self.codec)
        logger.warning("step %d skipped: %s (%d skipped so far)", step, where, self.skipped)
        if self.bad_in_a_row >= self.config.max_bad_steps:
            raise RunError(
                f"{self.bad_in_a_row} steps in a row gave NaN or infinity, the last in {where}. Lower "
                "optimizer.learning_rate, or set training.precision=fp32. The last checkpoint in "
                f"{self.folder.checkpoints} is whole."
            )

    def _validate(self, done: int) -> dict[str, float]:
        with self.average.applied() if self.average else nullcontext():
            return self.validation.look(done)

    def _log(self, run: TrainRun, done: int, found: dict[str, float], pace: Pace) -> dict[str, float]:
        scalars = found | self.usage.scalars()
        scalars["speed/steps_per_s"] = 1 / max(pace.step_s, 1e-9)
        scalars["steps/skipped"] = self.skipped
        run.heard = self.validation.take_heard()
        self.folder.log(done, scalars)
        registry().call("codecvq_train_logged", run=run, step=done, scalars=scalars)
        self.accelerator.log(scalars, step=done)
        return scalars

    # what outlives the process

    def save(self, step: int, must: bool = False) -> None:
        """Write a checkpoint and the codec as it is now, in the main process: all have the same weights. A
        full disk is told, and survived unless `must`.
        """
        if not self.accelerator.is_main_process:
            return
        state: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "usage": self.usage.counts,
            "skipped": self.skipped,
        }
        for name, part in self._parts().items():
            state[name] = part.state()
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        checkpoint = Checkpoint(step, self.codec.state_dict(), state)
        try:
            save_checkpoint(self.folder.checkpoints, checkpoint, self.config.keep_checkpoints)
        except OSError as error:
            before = last_checkpoint(self.folder.checkpoints)
            text = f"step {step} could not be saved in {self.folder.path} ({error.strerror})."
            whole = f"The last whole checkpoint is of step {before.step if before else 0}."
            _not_saved(f"{text} {whole}", error, must)
        else:
            self.save_codec(step, must)

    def save_codec(self, step: int, must: bool = False) -> None:
        """Write the codec as it is after `step` steps, of which there is a checkpoint."""
        try:
            with self.average.applied() if self.average else nullcontext():
                self.codec.save(self.folder.codec)
        except OSError as error:
            text = f"the codec could not be written to {self.folder.codec} ({error.strerror})."
            _not_saved(f"{text} The checkpoint of step {step} is whole.", error, must)

    def agree_on(self, first: int) -> None:
        """Raise RunError unless all processes have found the same step to go on from."""
        found = self.accelerator.gather(torch.tensor([first], device=self.accelerator.device)).tolist()
        if len(set(found)) > 1:
            raise RunError(
                f"the processes found checkpoints of different steps in {self.folder.path}: {found}. Give "
                "--run a folder on a disk that all nodes share."
            )

    def resume(self) -> int:
        """The step to go on from: that of the last whole checkpoint, now loaded; 0 where there is none, with
        the weights of `init_from` where it is set.
        """
        checkpoint = last_checkpoint(self.folder.checkpoints)
        if checkpoint is None:
            begin_from(self.recipe, self.codec, self.adversary)
            if self.average:
                self.average = WeightAverage(self.codec, self.config.average)
            return 0
        self.codec.load_state_dict(checkpoint.weights)
        self.optimizer.load_state_dict(checkpoint.state["optimizer"])
        self.usage.counts = dict(checkpoint.state["usage"])
        self.skipped = checkpoint.state["skipped"]
        for name, part in self._parts().items():
            part.load(checkpoint.state[name])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(checkpoint.state["scaler"])
        return checkpoint.step

    def _parts(self) -> dict[str, Any]:
        """What is there besides the codec and its optimizer, with `state` and `load`."""
        parts = {"adversary": self.adversary, "average": self.average, "balancer": self.balancer}
        return {name: part for name, part in parts.items() if part is not None}


def _not_saved(text: str, error: OSError, must: bool) -> None:
    if must:
        raise RunError(f"{text} Make room and give the same command.") from error
    logger.warning("%s The training goes on and tries again. Make room.", text)


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

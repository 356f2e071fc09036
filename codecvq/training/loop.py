"""The training, read from top to bottom: prepare, resume, then step after step.

Everything that a step hangs on is either in the checkpoint (weights, optimizers) or a function of its number
(batch, learning rate, random numbers). So a training that was killed and resumed ends with the weights of one
that was not, bit for bit, given the same processor and number of threads.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from codecvq.api.training import TrainRun
from codecvq.data.clip import ClipFailure
from codecvq.data.corpus import Corpus
from codecvq.data.device_segments import DeviceSegments
from codecvq.data.loading import Batch, load_batches
from codecvq.data.segments import Segments
from codecvq.data.split_file import write_split
from codecvq.errors import CorpusError, RunError
from codecvq.plugins import PROJECT, registry
from codecvq.training.builders import recipe_segments, run_corpus
from codecvq.training.checkpoint import Checkpoint, last_checkpoint, save_checkpoint
from codecvq.training.device import resolve_auto
from codecvq.training.learner import Learner
from codecvq.training.progress import StepTimer, TrainingProgress
from codecvq.training.recipe import Recipe, with_loaded_plugins
from codecvq.training.run import RunFolder
from codecvq.training.stop_signal import StopSignal, TrainingStopped
from codecvq.training.summary import startup_lines
from codecvq.training.trackers import check_trackers
from codecvq.training.validation import Validation

logger = logging.getLogger(PROJECT)

ProgressCallback = Callable[["TrainingProgress"], None]


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended."""

    folder: RunFolder
    steps: int
    resumed_at: int  # step; 0 for one that was not resumed
    seconds: float  # of this process
    skipped: int  # steps with NaN or infinity
    failures: tuple[ClipFailure, ...]  # clips that could not be read
    is_main: bool  # whether this is the process of the training that writes and prints


def train(
    recipe: Recipe,
    path: str | Path,
    report: ProgressCallback | None = None,
    announce: Callable[[str], None] | None = None,
    corpus: Corpus | None = None,
) -> TrainingResult:
    """Train `recipe` into the run folder `path`, going on from its last checkpoint if there is one.

    Sets the number of torch's threads. `announce` is given a line or two when the training begins, `corpus`
    takes the place of the one that the recipe names. Raises PluginError when a plugin that the recipe
    declares is not loaded; RunError when the folder is of another recipe or cannot be written, when its
    checkpoints are damaged, or when too many steps in a row give NaN or infinity; FolderInUse when another
    process trains into it; Stopped after Ctrl-C or SIGTERM, with a checkpoint of the step that was under way.
    """
    started = time.monotonic()
    recipe, folder = resolve_auto(with_loaded_plugins(recipe), RunFolder(Path(path)))
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
    trainer = Trainer(recipe, folder, accelerator, corpus)
    with folder.lock() if accelerator.is_main_process else nullcontext():
        first = trainer.prepare()
        if accelerator.is_main_process and announce:
            for line in startup_lines(recipe.training, accelerator, trainer.corpus):
                announce(line)
            if first:
                announce(f"goes on after step {first}")
        accelerator.wait_for_everyone()
        if not trainer.step_budget.is_finished(first):
            trainer.run(first, report or (lambda progress: None))
    return TrainingResult(
        folder,
        max(first, trainer.step_budget.steps),
        first,
        time.monotonic() - started,
        trainer.learner.step_metrics.skipped,
        trainer.failures,
        accelerator.is_main_process,
    )


class Trainer:
    """One process of a training."""

    def __init__(
        self, recipe: Recipe, folder: RunFolder, accelerator: Accelerator, corpus: Corpus | None = None
    ) -> None:
        self.recipe, self.folder, self.accelerator = recipe, folder, accelerator
        self.config = recipe.training
        self.corpus = (run_corpus(recipe, folder.path) if corpus is None else corpus).measured()
        self.learner = Learner(recipe, folder.path.resolve().name, accelerator)
        self.codec, self.step_budget = self.learner.codec, self.learner.step_budget
        self.segments = recipe_segments(recipe, self.corpus, self.codec.hop_length)
        self.validation = Validation(recipe, self.corpus, self.codec, self.learner.losses.modules, folder)
        self.saved = 0  # steps of the last checkpoint
        self.stop_signal = StopSignal()

    @property
    def failures(self) -> tuple[ClipFailure, ...]:
        """Clips that could not be read so far, each once."""
        return tuple(
            {failure.id: failure for failure in (*self.corpus.failures, *self.segments.failures)}.values()
        )

    def prepare(self) -> int:
        """The step to go on from, with its weights loaded and the run folder made ready for it."""
        if self.accelerator.is_main_process:  # again, now that no other process can make it its own
            self.folder.check(self.recipe)
            self.folder.check_clips(self.recipe, (clip.id for clip in self.corpus))
        first = self.resume()
        self.check_same_step(first)
        if self.config.minutes is None and self.config.steps < first:
            raise RunError(
                f"{self.folder.path} has {first} steps already, and training.steps is {self.config.steps}. "
                f"Give {first} or more, or another folder with --run."
            )
        if self.accelerator.is_main_process:
            try:
                self.folder.prepare(self.recipe, first)
                write_split(self.corpus, self.folder.split_file)
            except OSError as error:
                raise self.folder.write_error(error) from error
            if first:  # a kill between a checkpoint and its codec left an older one
                self.save_codec(first, required=self.step_budget.is_finished(first))
        return first

    def run(self, first: int, report: ProgressCallback) -> None:
        """Steps `first` … the last, with logging, validation and checkpoints. Raises Stopped where a signal
        asks for an end.
        """
        with self.stop_signal.watch():
            self._run(first, report)

    def _run(self, first: int, report: ProgressCallback) -> None:
        run = TrainRun(self.folder, self.recipe, first, self.step_budget.steps)
        if self.accelerator.is_main_process:
            registry().call("codecvq_train_start", run=run)
        self.accelerator.init_trackers("codecvq", config={"recipe": self.recipe.to_yaml()})
        timer, scalars = StepTimer(), dict[str, float]()
        self.step_budget.start(first)
        for step, batch in self._batches(first):
            wav = batch.wav.to(self.accelerator.device, non_blocking=True)
            self.learner.step(step, wav, batch.clips)
            timer.tick(self._phase(step))
            self.step_budget.record_step(done := step + 1)
            validates = done % self.config.validate_every == 0
            logs = validates or done % self.config.log_every == 0
            saves = done % self.config.checkpoint_every == 0
            last = False
            if logs or saves or done >= self.step_budget.steps:
                last = self._synchronize(done, timer)
                found = self.learner.step_metrics.take_means() if logs or last else {}
            if self.accelerator.is_main_process:
                if logs or last:
                    validated = self._validate(done) if validates or last else {}
                    scalars = self._log(run, done, found | validated, timer)
                left_s = self.step_budget.remaining_s(timer.step_s, done)
                report(TrainingProgress(done, self.step_budget.steps, scalars, left_s))
            if saves or last:
                self.save(done, required=last)
            if logs or saves:
                timer.restart()
            if last:
                break
        self.accelerator.wait_for_everyone()  # the main process still saves
        self.accelerator.end_training()

    def _phase(self, step: int) -> int:
        """1 from the step on at which discriminators come in, 0 before: steps then take longer."""
        section = self.recipe.discriminator
        return int(section is not None and step >= section.start_step)

    def _synchronize(self, done: int, timer: StepTimer) -> bool:
        """Wait for the steps so far and judge them; whether step `done` is the last, for all processes."""
        self.learner.step_metrics.read()
        timer.record()
        self.step_budget.fit(done)
        if self.config.minutes is not None and self.accelerator.num_processes > 1:
            steps = torch.tensor([self.step_budget.steps], device=self.accelerator.device)
            # by the clock of the main process
            self.step_budget.steps = int(self.accelerator.gather(steps)[0])
        return self.step_budget.is_finished(done)

    def _batches(self, first: int) -> Iterator[tuple[int, Batch]]:
        """Steps from `first` on with their batches. Where the data are gone for any process, all stop at the
        same step, and what was learned is saved first.
        """
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        segments: Segments | DeviceSegments = self.segments
        if self.recipe.corpus.cache == "device":
            segments = DeviceSegments(self.segments, self.accelerator.device)
        batches = load_batches(
            segments, first, self.step_budget.max_steps, rank, world, workers=self.config.workers
        )
        for step in range(first, self.step_budget.max_steps):
            corpus_error: CorpusError | None = None
            try:
                batch = next(batches)
            except CorpusError as error:
                corpus_error = error
            any_lost, any_stop = self._any_rank(corpus_error is not None, self.stop_signal.number != 0)
            if any_stop and not any_lost:
                self._stop(step, first)
            if any_lost:
                outcome = f"What was learned in {step} steps is saved" if step else "Nothing was learned yet"
                if step > first and not self.save(step):
                    outcome = f"What was learned since step {self.saved} could not be saved"
                self.accelerator.wait_for_everyone()  # where one ends in an error, the others are ended too
                why = corpus_error or "Another process cannot read its data, and says why."
                raise RunError(
                    f"{why} {outcome}: bring the data back and give the same command."
                ) from corpus_error
            yield step, batch

    def _stop(self, step: int, first: int) -> None:
        """Save what was learned in `step` steps and raise Stopped, in all processes."""
        if step > self.saved and step > first:
            self.save(step)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        number = self.stop_signal.number or signal.SIGTERM
        raise TrainingStopped(number, step, self.saved, self.accelerator.is_main_process)

    def _any_rank(self, *local: bool) -> list[bool]:
        """Whether each happened in any process; all have to call it."""
        if self.accelerator.num_processes == 1:
            return list(local)
        flags = torch.tensor(local, dtype=torch.float32, device=self.accelerator.device)
        return [count > 0 for count in self.accelerator.reduce(flags, reduction="sum").tolist()]

    def _validate(self, done: int) -> dict[str, float]:
        with self.learner.averaged():
            return self.validation.run(done)

    def _log(self, run: TrainRun, done: int, found: dict[str, float], timer: StepTimer) -> dict[str, float]:
        scalars = found | self.learner.usage.scalars()
        if timer.step_s:
            scalars["speed/steps_per_s"] = 1 / timer.step_s
        scalars["steps/skipped"] = self.learner.step_metrics.skipped
        run.validation_samples = self.validation.take_samples()
        self.folder.log(done, scalars)
        registry().call("codecvq_train_logged", run=run, step=done, scalars=scalars)
        self.accelerator.log(scalars, step=done)
        return scalars

    # what outlives the process

    def save(self, step: int, required: bool = False) -> bool:
        """Write a checkpoint and the codec as it is now, in the main process: all have the same weights.
        False where there is no room for the checkpoint, which is told, and survived unless `required`.
        """
        self.learner.step_metrics.read()  # with all processes
        if not self.accelerator.is_main_process:
            return True
        checkpoint = Checkpoint(step, self.codec.state_dict(), self.learner.state())
        try:
            save_checkpoint(self.folder.checkpoints, checkpoint, self.config.keep_checkpoints)
        except OSError as error:
            text = f"step {step} could not be saved in {self.folder.path} ({error.strerror})."
            _report_save_error(f"{text} The last whole checkpoint is of step {self.saved}.", error, required)
            return False
        self.saved = step
        self.save_codec(step, required)
        return True

    def save_codec(self, step: int, required: bool = False) -> None:
        """Write the codec as it is after `step` steps, of which there is a checkpoint."""
        try:
            with self.learner.averaged():
                self.codec.save(self.folder.codec)
        except OSError as error:
            text = f"the codec could not be written to {self.folder.codec} ({error.strerror})."
            _report_save_error(f"{text} The checkpoint of step {step} is whole.", error, required)

    def check_same_step(self, first: int) -> None:
        """Raise RunError unless all processes have found the same step to go on from."""
        found = self.accelerator.gather(torch.tensor([first], device=self.accelerator.device)).tolist()
        if len(set(found)) > 1:
            raise RunError(
                f"the processes found checkpoints of different steps in {self.folder.path}: {found}. Give "
                "--run a folder on a disk that all nodes share."
            )

    def resume(self) -> int:
        """The step to go on from: that of the last whole checkpoint, now loaded; 0 where there is none, with
        the weights of `init_from` where it is set. Raises RunError where all there are are damaged.
        """
        checkpoint = last_checkpoint(self.folder.checkpoints)
        if checkpoint is None and self.folder.has_checkpoints():
            raise RunError(
                f"none of the checkpoints in {self.folder.checkpoints} can be read. Bring one back from a "
                "copy, or delete them to begin from nothing."
            )
        if checkpoint is None:
            self.learner.load_initial_weights()
            return 0
        self.learner.load(checkpoint.weights, checkpoint.state)
        self.saved = checkpoint.step
        return checkpoint.step


def _report_save_error(text: str, error: OSError, required: bool) -> None:
    if required:
        raise RunError(f"{text} Make room and give the same command.") from error
    logger.warning("%s The training goes on and tries again. Make room.", text)

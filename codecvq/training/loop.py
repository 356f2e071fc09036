"""The training loop: prepare, resume, then run the steps.

All inputs of a step are either in the checkpoint (weights, optimizers) or a function of the step number
(batch, learning rate, random numbers). A run that was killed and resumed therefore ends with the same
weights as an uninterrupted run, bit for bit, on the same processor and number of threads.
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
from codecvq.bitstream.table_search import LearnedTables
from codecvq.codec.config import CONFIG
from codecvq.codec.tables_file import TABLES
from codecvq.data.clip import ClipFailure
from codecvq.data.corpus import Corpus
from codecvq.data.device_segments import DeviceSegments
from codecvq.data.loading import Batch, load_batches
from codecvq.data.segments import Segments
from codecvq.data.split_file import write_split
from codecvq.errors import CorpusError, RunError
from codecvq.plugins import PROJECT, registry
from codecvq.signals import StopSignal
from codecvq.training.builders import recipe_segments, run_corpus
from codecvq.training.checkpoint import Checkpoint, last_checkpoint, save_checkpoint
from codecvq.training.device import resolve_auto
from codecvq.training.learner import Learner
from codecvq.training.progress import StepTimer, TrainingProgress
from codecvq.training.recipe import Recipe, with_loaded_plugins
from codecvq.training.run import RunFolder
from codecvq.training.stopped import TrainingStopped
from codecvq.training.summary import startup_lines
from codecvq.training.table_learning import store_code_tables
from codecvq.training.trackers import check_trackers
from codecvq.training.validation import Validation

logger = logging.getLogger(PROJECT)

ProgressCallback = Callable[["TrainingProgress"], None]


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training in one process."""

    folder: RunFolder
    steps: int
    resumed_at: int  # step; 0 for a new run
    seconds: float  # of this process
    skipped: int  # steps skipped for non-finite gradients
    failures: tuple[ClipFailure, ...]  # clips that could not be read
    is_main: bool  # whether this is the main process, which writes and prints
    tables: LearnedTables | None = None  # learned for the codec in this call


def train(
    recipe: Recipe,
    path: str | Path,
    report: ProgressCallback | None = None,
    announce: Callable[[str], None] | None = None,
    corpus: Corpus | None = None,
) -> TrainingResult:
    """Train `recipe` into the run folder `path`, resuming from its last checkpoint if there is one.

    Sets the number of torch threads. `report` is called after every step, `announce` with each line that is
    printed at the start. `corpus` replaces the corpus of the recipe.

    Raises:
        PluginError: a plugin declared by the recipe is not loaded.
        RunError: the folder belongs to another recipe or cannot be written, its checkpoints are damaged, or
            too many consecutive steps have non-finite gradients.
        FolderInUse: another process trains into the folder.
        TrainingStopped: after Ctrl-C or SIGTERM; the current step is completed and saved in a checkpoint.
    """
    started = time.monotonic()
    recipe, folder = resolve_auto(with_loaded_plugins(recipe), RunFolder(Path(path)))
    folder.check(recipe)
    check_trackers(recipe.training.trackers)
    torch.set_num_threads(recipe.training.threads or 1)
    # accelerate fixes the precision of a process at first use; reset it for repeated trainings in a notebook
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # otherwise processes without a GPU do not connect
        mixed_precision={"fp32": "no"}.get(recipe.training.precision, recipe.training.precision),
        log_with=list(recipe.training.trackers) or None,
        project_dir=folder.path,
    )
    # before the folder is created, so that a missing corpus or unsuitable weights leave no folder
    trainer = Trainer(recipe, folder, accelerator, corpus)
    with folder.lock() if accelerator.is_main_process else nullcontext():
        first = trainer.prepare()
        if accelerator.is_main_process and announce:
            for line in startup_lines(recipe.training, accelerator, trainer.corpus):
                announce(line)
            if first:
                announce(f"resuming after step {first}")
        accelerator.wait_for_everyone()
        if not trainer.step_budget.is_finished(first):
            trainer.run(first, report or (lambda progress: None))
        tables = trainer.store_code_tables() if accelerator.is_main_process else None
    return TrainingResult(
        folder,
        max(first, trainer.step_budget.steps),
        first,
        time.monotonic() - started,
        trainer.learner.step_metrics.skipped,
        trainer.failures,
        accelerator.is_main_process,
        tables,
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
        """Clips that could not be read until now, each listed once."""
        return tuple(
            {failure.id: failure for failure in (*self.corpus.failures, *self.segments.failures)}.values()
        )

    def prepare(self) -> int:
        """Load the last checkpoint, prepare the run folder, and return the step to resume from."""
        if self.accelerator.is_main_process:  # repeat the check, now with the lock of the folder
            self.folder.check(self.recipe)
            self.folder.check_clips(self.recipe, (clip.id for clip in self.corpus))
        first = self.resume()
        self.check_same_step(first)
        if self.config.minutes is None and self.config.steps < first:
            raise RunError(
                f"{self.folder.path} already has {first} steps, but training.steps is {self.config.steps}. "
                f"Set training.steps to {first} or more, or choose another folder with --run."
            )
        if self.accelerator.is_main_process:
            try:
                self.folder.prepare(self.recipe, first)
                write_split(self.corpus, self.folder.split_file)
            except OSError as error:
                raise self.folder.write_error(error) from error
            if first:  # the codec is outdated if the process was killed between writing checkpoint and codec
                self.save_codec(first, required=self.step_budget.is_finished(first))
        return first

    def run(self, first: int, report: ProgressCallback) -> None:
        """Run the steps from `first` to the last, with logging, validation and checkpoints.

        Raises TrainingStopped after a signal to stop.
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
                means = self.learner.step_metrics.take_means() if logs or last else {}
            if self.accelerator.is_main_process:
                if logs or last:
                    validated = self._validate(done) if validates or last else {}
                    scalars = self._log(run, done, means | validated, timer)
                left_s = self.step_budget.remaining_s(timer.step_s, done)
                report(TrainingProgress(done, self.step_budget.steps, scalars, left_s))
            if saves or last:
                self.save(done, required=last)
            if logs or saves:
                timer.restart()
            if last:
                break
        self.accelerator.wait_for_everyone()  # the main process may still be saving
        self.accelerator.end_training()

    def _phase(self, step: int) -> int:
        """Phase of a step for `StepTimer`: 1 from `discriminator.start_step` on, 0 before."""
        section = self.recipe.discriminator
        return int(section is not None and step >= section.start_step)

    def _synchronize(self, done: int, timer: StepTimer) -> bool:
        """Synchronize with the GPU and check the steps until now; return whether `done` steps are all.

        The result is the same in all processes.
        """
        self.learner.step_metrics.read()
        timer.record()
        self.step_budget.fit(done)
        if self.config.minutes is not None and self.accelerator.num_processes > 1:
            steps = torch.tensor([self.step_budget.steps], device=self.accelerator.device)
            # all processes use the clock of the main process
            self.step_budget.steps = int(self.accelerator.gather(steps)[0])
        return self.step_budget.is_finished(done)

    def _batches(self, first: int) -> Iterator[tuple[int, Batch]]:
        """Yield steps from `first` on with their batches.

        If any process cannot read its data, all processes save a checkpoint and raise RunError at the same
        step.
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
                outcome = f"A checkpoint of step {step} was saved" if step else "No step was completed"
                if step > first and not self.save(step):
                    outcome = f"The steps after step {self.saved} could not be saved"
                self.accelerator.wait_for_everyone()  # the launcher ends all processes when one raises
                why = corpus_error or "Another process cannot read its data; see its message."
                raise RunError(
                    f"{why} {outcome}. Restore the data and run the same command again."
                ) from corpus_error
            yield step, batch

    def _stop(self, step: int, first: int) -> None:
        """Save a checkpoint of `step` steps and raise TrainingStopped, in all processes."""
        if step > self.saved and step > first:
            self.save(step)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        number = self.stop_signal.number or signal.SIGTERM
        raise TrainingStopped(number, step, self.saved, self.accelerator.is_main_process)

    def _any_rank(self, *local: bool) -> list[bool]:
        """Whether each flag is true on any rank. Every rank must call this."""
        if self.accelerator.num_processes == 1:
            return list(local)
        flags = torch.tensor(local, dtype=torch.float32, device=self.accelerator.device)
        return [count > 0 for count in self.accelerator.reduce(flags, reduction="sum").tolist()]

    def _validate(self, done: int) -> dict[str, float]:
        with self.learner.averaged():
            return self.validation.run(done)

    def _log(self, run: TrainRun, done: int, means: dict[str, float], timer: StepTimer) -> dict[str, float]:
        scalars = means | self.learner.usage.scalars()
        if timer.step_s:
            scalars["speed/steps_per_s"] = 1 / timer.step_s
        scalars["steps/skipped"] = self.learner.step_metrics.skipped
        run.validation_samples = self.validation.take_samples()
        self.folder.log(done, scalars)
        registry().call("codecvq_train_logged", run=run, step=done, scalars=scalars)
        self.accelerator.log(scalars, step=done)
        return scalars

    # checkpoints

    def save(self, step: int, required: bool = False) -> bool:
        """Write a checkpoint and the codec, in the main process: all processes have the same weights.

        Returns False and logs a warning if the checkpoint cannot be written, for example on a full disk.
        Raises RunError instead if `required`.
        """
        self.learner.step_metrics.read()  # every process must call this
        if not self.accelerator.is_main_process:
            return True
        checkpoint = Checkpoint(step, self.codec.state_dict(), self.learner.state())
        try:
            save_checkpoint(self.folder.checkpoints, checkpoint, self.config.keep_checkpoints)
        except OSError as error:
            text = f"step {step} could not be saved in {self.folder.path} ({error.strerror})."
            _report_save_error(f"{text} The last valid checkpoint is of step {self.saved}.", error, required)
            return False
        self.saved = step
        self.save_codec(step, required)
        return True

    def save_codec(self, step: int, required: bool = False) -> None:
        """Write the codec after `step` steps. A checkpoint of this step exists."""
        try:
            with self.learner.averaged():
                self.codec.save(self.folder.codec)
        except OSError as error:
            text = f"the codec could not be written to {self.folder.codec} ({error.strerror})."
            _report_save_error(f"{text} The checkpoint of step {step} is valid.", error, required)

    def store_code_tables(self) -> LearnedTables | None:
        """Learn code tables for the codecs in `best/` and `codec/`, and return those of `codec/`.

        Skips codecs that have tables. Counts at most as much audio as the training used. A failure is logged
        as a warning, because the codec works without tables.
        """
        batch_s = self.config.batch_size * self.config.accumulate * self.recipe.corpus.segment_s
        used_s = self.step_budget.steps * batch_s * self.accelerator.num_processes
        minutes = min(self.config.code_tables_minutes, used_s / 60)
        learned: dict[Path, LearnedTables | None] = {}
        if not minutes or self.codec.quantizer.code_tables() is not None:
            return None
        for folder in (self.folder.best, self.folder.codec):
            if not (folder / CONFIG).is_file() or (folder / TABLES).exists():
                continue
            try:
                learned[folder] = store_code_tables(folder, self.corpus, minutes, self.accelerator.device)
            except Exception as error:  # of a plugin, or a full disk
                logger.warning(
                    "no code tables were learned for %s (%s). The codec works without them; to learn them, "
                    "run: codecvq tables %s", folder, error, folder,
                )  # fmt: skip
        return learned.get(self.folder.codec)

    def check_same_step(self, first: int) -> None:
        """Raise RunError unless all processes resume from the same step."""
        steps = self.accelerator.gather(torch.tensor([first], device=self.accelerator.device)).tolist()
        if len(set(steps)) > 1:
            raise RunError(
                f"the processes found checkpoints of different steps in {self.folder.path}: {steps}. Choose "
                "a folder with --run that is on a disk shared by all nodes."
            )

    def resume(self) -> int:
        """Load the last valid checkpoint and return its step.

        Without checkpoints, loads the weights of `training.init_from`, if set, and returns 0. Raises RunError
        if all checkpoints are damaged.
        """
        checkpoint = last_checkpoint(self.folder.checkpoints)
        if checkpoint is None and self.folder.has_checkpoints():
            raise RunError(
                f"none of the checkpoints in {self.folder.checkpoints} can be read. Restore one from a "
                "backup, or delete them all to start again from step 0."
            )
        if checkpoint is None:
            self.learner.load_initial_weights()
            return 0
        self.learner.load(checkpoint.weights, checkpoint.state)
        self.saved = checkpoint.step
        return checkpoint.step


def _report_save_error(text: str, error: OSError, required: bool) -> None:
    if required:
        raise RunError(f"{text} Free some space and run the same command again.") from error
    logger.warning("%s The training continues and will try again. Free some space.", text)

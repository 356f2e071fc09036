"""The run folder, and what hooks are told of a run.

recipe.yaml  metrics.jsonl  split.jsonl  .lock  tensorboard/  checkpoints/  codec/  best/  report/
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from codecvq.data.split_file import SPLIT_FILE, read_split
from codecvq.data.split_table import SplitTable
from codecvq.errors import RunError
from codecvq.files import path_without_links, stale_temporary_files, write_atomically
from codecvq.lock import locked
from codecvq.plugins import PROJECT
from codecvq.training.changes import differences, location_changes
from codecvq.training.checkpoint import checkpoint_paths, clean_up_checkpoints
from codecvq.training.recipe import Recipe, load_run_recipe

logger = logging.getLogger(PROJECT)


@dataclass(frozen=True)
class RunFolder:
    """A folder that belongs to one training."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        """The recipe as resolved."""
        return self.path / "recipe.yaml"

    @property
    def metrics_file(self) -> Path:
        """One JSON object a line, with "step"."""
        return self.path / "metrics.jsonl"

    @property
    def split_file(self) -> Path:
        """One JSON object a line: a clip and its split."""
        return self.path / SPLIT_FILE

    @property
    def lock_file(self) -> Path:
        """Held by the process that trains."""
        return self.path / ".lock"

    @property
    def checkpoints(self) -> Path:
        """A folder a checkpoint."""
        return self.path / "checkpoints"

    @property
    def codec(self) -> Path:
        """The codec as of the last checkpoint."""
        return self.path / "codec"

    @property
    def best(self) -> Path:
        """The codec that validation liked best, and best.json, which says when."""
        return self.path / "best"

    def recipe(self) -> Recipe:
        """The recipe of this run. Raises RunError where there is none."""
        if not self.recipe_file.is_file():
            raise RunError(
                f"{self.path} is not a run folder: there is no recipe.yaml in it. Give one written by "
                "codecvq train."
            )
        return load_run_recipe(self.recipe_file)

    def has_checkpoints(self) -> bool:
        """Whether there are checkpoints, whole or damaged."""
        return bool(checkpoint_paths(self.checkpoints))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """A block in which no other process trains into the folder. A folder that is new, and that the block
        does not make a run, is removed. Raises FolderInUse, and RunError where the lock cannot be written.
        """
        new = not self.path.exists()
        try:
            stack = ExitStack()
            stack.enter_context(locked(self.lock_file, "the run folder"))
        except OSError as error:
            raise self.write_error(error) from error
        with stack:
            try:
                yield
            finally:
                if new and not self.recipe_file.is_file():
                    with suppress(OSError):
                        self.lock_file.unlink()
                        self.path.rmdir()

    def write_error(self, error: OSError) -> RunError:
        """The error of a folder that cannot be written."""
        return RunError(
            f"the run folder {self.path} cannot be written ({error.strerror}). Make room, or give another "
            "one with --run."
        )

    def check(self, recipe: Recipe) -> None:
        """Raise RunError where the folder is a run of another recipe, or somebody else's, and SymlinkError
        where a part of it is a link.
        """
        for part in (self.recipe_file, self.metrics_file, self.checkpoints, self.codec, self.best):
            path_without_links(self.path, part.name)
        path_without_links(self.path, "tensorboard")
        if self.recipe_file.is_file():
            changed = differences(self.recipe(), recipe)
            if changed:
                shown = "; ".join(changed[:4]) + (" …" if len(changed) > 4 else "")
                raise RunError(
                    f"{self.path} is a run of another recipe ({shown}). Give another folder with --run, or "
                    "the same recipe to go on. Steps, logging, validation, checkpoints, threads and places "
                    "of the data may change."
                )
        elif self.path.is_dir() and {*self.path.iterdir()} - {
            self.lock_file,
            *stale_temporary_files(self.recipe_file),
        }:
            raise RunError(
                f"{self.path} holds other files and no recipe.yaml. Give an empty or new folder with --run."
            )

    def check_clips(self, recipe: Recipe, ids: Iterable[str]) -> None:
        """Raise RunError where the recipe gives another place of the data than the run has, and the clips
        there have other `ids` than those of the run.
        """
        if not self.recipe_file.is_file() or not self.split_file.is_file():
            return
        changed_locations = location_changes(self.recipe(), recipe)
        if not changed_locations:
            return
        before, now = read_split(self.split_file).ids, SplitTable.from_texts(ids)
        if before != now:
            raise RunError(
                f"{self.path} is a run on other clips ({'; '.join(changed_locations)}): "
                f"{before.missing_in(now)} of its {len(before)} are not among the {len(now)} that "
                "are there now. Give the place of the same recordings, or another folder with --run."
            )

    def prepare(self, recipe: Recipe, step: int) -> None:
        """Make the folder a run of `recipe` that goes on after `first` steps: what a kill left half written,
        and what is of later steps, goes out of the way. Raises OSError where it cannot be written.
        """
        # the first that is written: without it the folder is nobody's; later, where what may change did
        if not self.recipe_file.is_file() or self.recipe() != recipe:
            write_atomically(self.recipe_file, recipe.to_yaml())
        for path in stale_temporary_files(self.recipe_file):
            path.unlink(missing_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        clean_up_checkpoints(self.checkpoints, step)
        self._truncate_metrics(step)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append a line to metrics.jsonl."""
        line = json.dumps({"step": step, **{name: float(f"{value:.6g}") for name, value in scalars.items()}})
        try:
            with self.metrics_file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:  # a full disk costs a line of the curves, not the training
            logger.warning("step %d was not logged in %s (%s)", step, self.metrics_file, error.strerror)

    def _truncate_metrics(self, step: int) -> None:
        """Drop the lines of steps after `step`, which are about to be made again, and one that a kill cut
        short.
        """
        if not self.metrics_file.is_file():
            return
        kept = [
            line
            for line in self.metrics_file.read_text(encoding="utf-8").splitlines()
            if _step_of(line) <= step
        ]
        write_atomically(self.metrics_file, "".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")

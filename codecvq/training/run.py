"""The folder of a training run.

It contains:

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
    """The folder of one training run."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        """File with the recipe, with all defaults."""
        return self.path / "recipe.yaml"

    @property
    def metrics_file(self) -> Path:
        """File with logged scalars: one JSON object per line, with "step"."""
        return self.path / "metrics.jsonl"

    @property
    def split_file(self) -> Path:
        """File with the split of each clip: one JSON object per line."""
        return self.path / SPLIT_FILE

    @property
    def lock_file(self) -> Path:
        """File locked by the training process."""
        return self.path / ".lock"

    @property
    def checkpoints(self) -> Path:
        """Folder with one subfolder per checkpoint."""
        return self.path / "checkpoints"

    @property
    def codec(self) -> Path:
        """Folder of the codec at the last checkpoint."""
        return self.path / "codec"

    @property
    def best(self) -> Path:
        """Folder of the codec with the best validation score, and best.json with its step and score."""
        return self.path / "best"

    def recipe(self) -> Recipe:
        """Load the recipe of this run. Raises RunError if there is none."""
        if not self.recipe_file.is_file():
            raise RunError(
                f"{self.path} is not a run folder: it has no recipe.yaml. Give a folder written by "
                "codecvq train."
            )
        return load_run_recipe(self.recipe_file)

    def has_checkpoints(self) -> bool:
        """Whether there are checkpoints, including damaged ones."""
        return bool(checkpoint_paths(self.checkpoints))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Context in which no other process can train into the folder.

        Deletes a new folder at the end if it has not become a run. Raises FolderInUse if another process has
        the lock, and RunError if the lock file cannot be written.
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
        """Return the error for a folder that cannot be written."""
        return RunError(
            f"the run folder {self.path} cannot be written ({error.strerror}). Free some space, or choose "
            "another folder with --run."
        )

    def check(self, recipe: Recipe) -> None:
        """Check that the folder is new or a run of `recipe`.

        Raises RunError if it is a run of another recipe or contains other files, and SymlinkError if one of
        its files or subfolders is a link.
        """
        for part in (self.recipe_file, self.metrics_file, self.checkpoints, self.codec, self.best):
            path_without_links(self.path, part.name)
        path_without_links(self.path, "tensorboard")
        if self.recipe_file.is_file():
            changed = differences(self.recipe(), recipe)
            if changed:
                shown = "; ".join(changed[:4]) + (" …" if len(changed) > 4 else "")
                raise RunError(
                    f"{self.path} is a run of another recipe ({shown}). Choose another folder with --run, or "
                    "use the same recipe to resume. Only steps, logging, validation, checkpoints, threads "
                    "and data locations may change."
                )
        elif self.path.is_dir() and {*self.path.iterdir()} - {
            self.lock_file,
            *stale_temporary_files(self.recipe_file),
        }:
            raise RunError(
                f"{self.path} contains other files and no recipe.yaml. Choose an empty or new folder "
                "with --run."
            )

    def check_clips(self, recipe: Recipe, ids: Iterable[str]) -> None:
        """Raise RunError if the data location has changed and the clips have other `ids` than the run."""
        if not self.recipe_file.is_file() or not self.split_file.is_file():
            return
        changed_locations = location_changes(self.recipe(), recipe)
        if not changed_locations:
            return
        before, now = read_split(self.split_file).ids, SplitTable.from_texts(ids)
        if before != now:
            raise RunError(
                f"{self.path} is a run on other clips ({'; '.join(changed_locations)}): "
                f"{before.missing_in(now)} of its {len(before)} clips are not among the {len(now)} found "
                "now. Set the location of the same clips, or choose another folder with --run."
            )

    def prepare(self, recipe: Recipe, step: int) -> None:
        """Prepare the folder for a run of `recipe` that starts or resumes after `step` steps.

        Deletes partial files of killed processes and metrics of later steps, and renames damaged checkpoints.
        Raises OSError if the folder cannot be written.
        """
        # write the recipe first: it makes the folder a run; write it again if changeable keys have changed
        if not self.recipe_file.is_file() or self.recipe() != recipe:
            write_atomically(self.recipe_file, recipe.to_yaml())
        for path in stale_temporary_files(self.recipe_file):
            path.unlink(missing_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        clean_up_checkpoints(self.checkpoints, step)
        self._truncate_metrics(step)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append a line of scalars to metrics.jsonl."""
        line = json.dumps({"step": step, **{name: float(f"{value:.6g}") for name, value in scalars.items()}})
        try:
            with self.metrics_file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:  # on a full disk, skip the line and continue the training
            logger.warning("step %d was not logged in %s (%s)", step, self.metrics_file, error.strerror)

    def _truncate_metrics(self, step: int) -> None:
        """Delete the lines of steps after `step`, which will be repeated, and a partial last line."""
        if not self.metrics_file.is_file():
            return
        lines = [
            line
            for line in self.metrics_file.read_text(encoding="utf-8").splitlines()
            if _step_of(line) <= step
        ]
        write_atomically(self.metrics_file, "".join(f"{line}\n" for line in lines))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")

"""`codecvq train`: train a codec from a recipe."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecvq.cli.console import (
    Json,
    Plugins,
    ProgressLine,
    duration,
    errors,
    print_json,
    print_written,
    progress_line,
)

if TYPE_CHECKING:
    from codecvq.training.loop import TrainingProgress, TrainingResult
    from codecvq.training.recipe import Recipe


def train(
    recipe: Annotated[str, typer.Argument(help="YAML file, or name listed by: codecvq recipes list")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Recipe keys to set, such as training.steps=1000, or to reset to their defaults, such as "
            "~discriminator."
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", "-r", help="Run folder. Default: runs/RECIPE. With torchrun, use -r."),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            "--init-from",
            metavar="CODEC|RUN",
            help="Initial weights: a run folder, codec folder or registered codec.",
        ),
    ] = None,
    init_partial: Annotated[
        bool,
        typer.Option(
            "--init-partial", help="Load only the weights that fit; initialize the others randomly."
        ),
    ] = False,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke",
            help="Test the recipe with three steps on a few clips. Uses the bundled corpus if the recipe's "
            "corpus is not installed. Without --run, the results are deleted.",
        ),
    ] = False,
    plugin: Plugins = [],  # noqa: B006  typer requires a list
    as_json: Json = False,
) -> None:
    """Train a codec from a recipe.

    Run the same command again to resume an interrupted training, also after Ctrl-C.

    Before resuming, you may change steps, threads, logging and validation. The learning rate then decays to
    the new last step.

    Example: [bold]codecvq train quickstart training.steps=2000 --run runs/longer[/]
    """
    loaded = _load_recipe(recipe, overrides or [], plugin, init_from, init_partial)
    if smoke:
        _smoke(loaded, run, as_json)
        return
    folder = run or Path("runs") / Path(recipe).stem
    with exit_on_stop(), progress_line() as line:
        from codecvq.training.loop import train as run_training

        trained = run_training(
            loaded, folder, lambda progress: show_progress(line, progress), announce=line.announce
        )
    if trained.is_main:
        _print_result(trained, as_json)


@contextmanager
def exit_on_stop() -> Iterator[None]:
    """Context for a training: after Ctrl-C or SIGTERM, print how to resume and exit."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        # an attribute of `training.stopped.TrainingStopped`, read without importing torch
        code = getattr(stopped, "exit_code", None)
        if code is None:
            raise
        if getattr(stopped, "is_main", True):
            errors.print(str(stopped), highlight=False, markup=False)
        raise typer.Exit(code) from stopped


def _load_recipe(
    recipe: str, overrides: list[str], plugins: list[str], init_from: str | None, init_partial: bool
) -> Recipe:
    """Load the recipe with overrides, options and plugins."""
    from codecvq.errors import RecipeError
    from codecvq.plugins import load
    from codecvq.training.recipe import load_recipe, with_loaded_plugins

    if init_from is not None:
        overrides = [*overrides, f"training.init_from={json.dumps(init_from)}"]
    loaded = load_recipe(recipe, overrides)
    training = loaded.training
    if init_partial:
        training = training.model_copy(update={"init_partial": True})
    if training.init_partial and training.init_from is None:
        raise RecipeError(
            "--init-partial (training.init_partial) needs initial weights. Add --init-from with a run "
            "folder or codec."
        )
    named = [load(plugin) for plugin in plugins]  # already loaded; returns their origins
    return with_loaded_plugins(loaded.model_copy(update={"training": training}), named)


def _smoke(recipe: Recipe, run: Path | None, as_json: bool) -> None:
    """Run the smoke test in `run`, or in a temporary folder."""
    from codecvq.training.smoke import smoke_test

    with (
        exit_on_stop(),
        tempfile.TemporaryDirectory(prefix="codecvq-smoke-") as temporary,
        progress_line() as line,
    ):
        folder = run or Path(temporary) / "run"
        done = smoke_test(recipe, folder, lambda progress: show_progress(line, progress), line.announce)
    if done is None:
        return
    trained = done.trained
    if as_json:
        print_json(
            {
                "works": True,
                "corpus": done.corpus,
                "steps": trained.steps,
                "seconds": round(trained.seconds, 1),
                "bitrate_bps": done.bitrate_bps,
                "run": str(run) if run else None,
            }
        )
        return
    discriminators = "" if recipe.discriminator is None else ", with discriminators from the second step on"
    print_written(
        (
            "works",
            f"{trained.steps} steps on corpus {done.corpus} in {trained.seconds:.0f} s{discriminators}; "
            f"validated, saved and loaded; {done.seconds_of_audio:.1f} s of audio encoded "
            f"({done.bitrate_bps:.0f} bit/s) and decoded",
        ),
        ("run", trained.folder.path if run else "deleted; use --run to keep it"),
    )


def show_progress(line: ProgressLine, progress: TrainingProgress) -> None:
    """Show step, loss, codebook usage and remaining time in one line."""
    loss, usage = progress.scalars.get("loss/total"), progress.scalars.get("codebook/usage")
    parts = [f"step {progress.step}/{progress.steps}"]
    parts += [f"loss {loss:.3f}"] if loss is not None else []
    parts += [f"codebook use {100 * usage:.0f} %"] if usage is not None else []
    parts += [f"{duration(progress.seconds_left)} left"]
    line.show("  ".join(parts), final=progress.step == progress.steps)


def _print_result(trained: TrainingResult, as_json: bool) -> None:
    folder = trained.folder
    if as_json:
        print_json(
            {
                "run": str(folder.path),
                "codec": str(folder.codec),
                "steps": trained.steps,
                "resumed_at": trained.resumed_at,
                "seconds": round(trained.seconds, 1),
                "skipped_steps": trained.skipped,
                "code_tables": trained.tables.tables.sha256 if trained.tables else None,
                "failures": [str(failure) for failure in trained.failures],
            }
        )
        return
    for failure in trained.failures[:10]:
        print_written(("not read", str(failure)))
    if len(trained.failures) > 10:
        print_written(("not read", f"{len(trained.failures) - 10} more clips"))
    if trained.resumed_at == trained.steps:
        how = "already complete"
    else:
        start = f", from step {trained.resumed_at} on" if trained.resumed_at else ""
        how = f"took {duration(trained.seconds)}{start}"
    print_written((f"trained {trained.steps} steps", how))
    if tables := trained.tables:
        bits = f"{tables.table_bits:.1f} bits per frame instead of {tables.packed_bits:.1f}"
        print_written(("code tables", f"{bits}, on validation clips"))
    print_written(
        ("codec", folder.codec),
        ("curves", f"tensorboard --logdir {folder.path}"),
    )

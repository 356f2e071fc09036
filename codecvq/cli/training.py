"""`codecvq train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecvq.cli.console import (
    Json,
    Plugins,
    ProgressLine,
    duration,
    print_json,
    print_written,
    progress_line,
)

if TYPE_CHECKING:
    from codecvq.training.loop import Moment, Trained


def train(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or a name from: codecvq recipes list")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Recipe keys to set: training.steps=1000 …")
    ] = None,
    run: Annotated[Path | None, typer.Option("--run", help="Run folder; by default runs/RECIPE.")] = None,
    plugin: Plugins = [],  # noqa: B006  typer's default for a repeatable option
    as_json: Json = False,
) -> None:
    """Train a codec from a recipe; the same command goes on where it was stopped.

    Example: [bold]codecvq train quickstart training.steps=2000 --run runs/longer[/]
    """
    from codecvq.training.loop import train as run_training
    from codecvq.training.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    plugins = [str(Path(p).resolve()) if p.endswith(".py") else p for p in plugin]
    loaded = loaded.model_copy(update={"plugins": list(dict.fromkeys([*loaded.plugins, *plugins]))})
    folder = run or Path("runs") / Path(recipe).stem
    with progress_line() as line:
        trained = run_training(loaded, folder, lambda moment: show_moment(line, moment))
    _print(trained, as_json)


def show_moment(line: ProgressLine, moment: Moment) -> None:
    """One line: step, loss, codebook use, time left."""
    loss, usage = moment.scalars.get("loss/total"), moment.scalars.get("codebook/usage")
    parts = [f"step {moment.step}/{moment.steps}"]
    parts += [f"loss {loss:.3f}"] if loss is not None else []
    parts += [f"codebook use {100 * usage:.0f} %"] if usage is not None else []
    parts += [f"{duration(moment.seconds_left)} left"]
    line.show("  ".join(parts), final=moment.step == moment.steps)


def _print(trained: Trained, as_json: bool) -> None:
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
                "failures": [str(failure) for failure in trained.failures],
            }
        )
        return
    for failure in trained.failures[:10]:
        print_written(("not read", str(failure)))
    if len(trained.failures) > 10:
        print_written(("not read", f"{len(trained.failures) - 10} more clips"))
    if trained.resumed_at == trained.steps:
        how = "was finished before"
    else:
        start = f", from step {trained.resumed_at} on" if trained.resumed_at else ""
        how = f"took {duration(trained.seconds)}{start}"
    print_written(
        (f"trained {trained.steps} steps", how),
        ("codec", folder.codec),
        ("curves", f"tensorboard --logdir {folder.path}"),
    )

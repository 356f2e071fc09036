"""`codecvq evaluate`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codecvq.cli.console import (
    CodecArgument,
    Device,
    Json,
    Plugins,
    pick_device,
    print_json,
    print_table,
    print_written,
    progress_line,
    time_left,
)
from codecvq.cli.data import CorpusRoot, MaxClips, corpus_of
from codecvq.errors import CorpusError
from codecvq.files import without_links

if TYPE_CHECKING:
    from codecvq.evaluation.result import Evaluation
    from codecvq.training.corpus import Corpus
    from codecvq.training.recipe import Recipe


def evaluate(
    codec: CodecArgument,
    data: Annotated[
        str | None, typer.Argument(help="Folder, manifest or corpus name; by default the run's own corpus.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation, test, or all.")] = "test",
    metrics: Annotated[
        str | None, typer.Option(help="Names, commas between; by default all that are installed.")
    ] = None,
    max_clips: MaxClips = None,
    root: CorpusRoot = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report and numbers; by default the run folder.")
    ] = None,
    device: Device = "auto",
    plugin: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Measure a codec on held-out speech: quality, real bitrate, speed; with an HTML report to listen to.

    Example: [bold]codecvq evaluate runs/quickstart --metrics pesq_wb,stoi[/]
    """
    from codecvq.codec import load
    from codecvq.declared import explained
    from codecvq.evaluation.evaluate import evaluate as run_evaluation
    from codecvq.evaluation.metrics import prepare
    from codecvq.evaluation.report import write_report

    loaded = load(codec, pick_device(device))
    recipe = _recipe_of(codec)
    if recipe and data is None:
        max_clips = max_clips or recipe.evaluation.max_clips
    names = metrics.split(",") if metrics else recipe.evaluation.metrics if recipe else None
    with explained(recipe.plugins if recipe else ()):
        clips = _clips(data, root, split, recipe)
        ready = prepare(names)
    folder = out or (codec if recipe else Path("evaluation") / loaded.name)
    start = time.monotonic()
    with progress_line() as line:
        result = run_evaluation(
            loaded,
            clips,
            ready,
            max_clips,
            audio_dir=without_links(folder, "report", "audio"),
            progress=lambda done, total, clip: line.show(
                f"clip {done}/{total}  {time_left(done, total, time.monotonic() - start)} left",
                final=done == total,
            ),
        )
    result.save(folder / "report")
    page = write_report(folder, result, run_dir=codec if recipe else None)
    if as_json:
        print_json(result.to_json())
        return
    print_evaluation(result)
    print_written(("numbers", folder / "report" / "evaluation.json"), ("report", page))


def print_evaluation(result: Evaluation) -> None:
    """The short table, and what is missing from it."""
    print_table(
        ["measure", "mean", "unit", "95 %", "n"],
        [[row.name, row.value, row.unit, row.interval, row.n] for row in result.table()],
    )
    for name, why in result.unavailable.items():
        print_written((f"not measured: {name}", why))
    if result.failures:
        print_written(("failures", f"{len(result.failures)}, the first: {result.failures[0]}"))


def _recipe_of(folder: Path) -> Recipe | None:
    from codecvq.training.run import RunFolder

    run = RunFolder(folder)
    return run.recipe() if run.recipe_file.is_file() else None


def _clips(data: str | None, root: Path | None, split: str, recipe: Recipe | None) -> Corpus:
    if data is None and recipe is None:
        raise CorpusError(
            "there is nothing to evaluate on. Name a folder, a manifest or a corpus behind the codec."
        )
    if data is None:
        from codecvq.training.parts import recipe_corpus

        assert recipe is not None, "checked above"
        corpus = recipe_corpus(recipe.corpus)
    else:
        corpus = corpus_of(data, root)
    return split_clips(corpus, split)


def split_clips(corpus: Corpus, split: str) -> Corpus:
    """The clips of a split, or all; raises CorpusError for another word, and where there is none."""
    if split == "all":
        return corpus
    if split not in ("train", "validation", "test"):
        raise CorpusError(f"split is {split!r}; it is train, validation, test or all.")
    chosen: Any = split
    part = corpus.split(chosen)
    if not len(part):
        raise CorpusError(
            f"corpus {corpus.name!r} has no clips in the split {split!r} ({len(corpus)} in all). Take "
            "--split all."
        )
    return part

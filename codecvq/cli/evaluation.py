"""`codecvq evaluate`: measure a codec and write a report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecvq.cli.batch import BatchResult, ItemFailure, failure_of
from codecvq.cli.console import (
    CodecArgument,
    Device,
    Json,
    Plugins,
    print_json,
    print_table,
    print_written,
    progress_line,
    resolve_device,
    time_left,
)
from codecvq.cli.data import (
    CorpusRoot,
    MaxClips,
    ReaderName,
    check_split,
    open_data,
    parse_names,
    split_clips,
)
from codecvq.cli.paths import typed_path, writable_folder
from codecvq.errors import CorpusError
from codecvq.files import path_inside, path_without_links

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec
    from codecvq.data import Corpus
    from codecvq.evaluation.metrics import MetricSet
    from codecvq.evaluation.result import Evaluation, Failure
    from codecvq.training.recipe import Recipe


def evaluate(
    codec: CodecArgument,
    data: Annotated[
        str | None, typer.Argument(help="Folder, manifest or corpus name. Default: the corpus of the run.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation, test or all.")] = "test",
    metrics: Annotated[
        str | None,
        typer.Option(help="Comma-separated metric names. Default: all metrics that are installed."),
    ] = None,
    max_clips: MaxClips = None,
    root: CorpusRoot = None,
    reader: ReaderName = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output folder of report and numbers. Default: the run folder.",
            parser=typed_path,
            metavar="FOLDER",
        ),
    ] = None,
    device: Device = "auto",
    plugin: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Evaluate a codec on held-out speech.

    Measures quality, actual bitrate and speed, and writes an HTML report with audio.

    Example: [bold]codecvq evaluate runs/quickstart --metrics pesq_wb,stoi[/]
    """
    from codecvq.codec import load
    from codecvq.codec.pretrained import codec_registration, unknown_codec
    from codecvq.evaluation.metrics import prepare
    from codecvq.plugins.declarations import explain_missing_plugins

    check_split(split)
    names = parse_names(metrics, "--metrics")
    recipe = _recipe_of(codec)
    if data is None:
        if codec_registration(codec) is None and not codec.exists():
            raise unknown_codec(codec)  # before the error about data
        _check_run_data(recipe, root, reader)
    with explain_missing_plugins(recipe.plugins if recipe else ()):
        ready = prepare(names or (recipe.evaluation.metrics if recipe else None))
        loaded = load(codec, resolve_device(device))
        clips = _clips(data, root, reader, split, recipe, Path(codec))
    if recipe and data is None and max_clips is None:
        max_clips = recipe.evaluation.max_clips
    folder = writable_folder(out or (codec if recipe else path_inside(Path("evaluation"), loaded.name)))
    result = _measure(loaded, codec, clips, ready, max_clips, path_without_links(folder, "report", "audio"))
    problems, written = _save(result, folder, codec if recipe else None)
    batch = _batch_result(result, problems)
    if as_json:
        failures = [*(_failure_json(failure) for failure in result.failures), *map(vars, problems)]
        print_json({**result.to_json(), **batch.to_json(), "failures": failures})
    else:
        print_evaluation(result)
        batch.print_failures()
        print_written(*written)
    batch.exit_if_failed()


def _measure(
    codec: AudioCodec, source: Path, clips: Corpus, metrics: MetricSet, max_clips: int | None, audio_dir: Path
) -> Evaluation:
    from codecvq.evaluation.evaluate import evaluate as run_evaluation
    from codecvq.evaluation.training_clips import training_clip_test

    start = time.monotonic()
    with progress_line() as line:
        return run_evaluation(
            codec,
            clips,
            metrics,
            max_clips,
            audio_dir=audio_dir,
            progress=lambda done, total, clip: line.show(
                f"clip {done}/{total}  {time_left(done, total, time.monotonic() - start)} left",
                final=done == total,
            ),
            is_training_clip=training_clip_test(source),
        )


def _save(
    result: Evaluation, folder: Path, run: Path | None
) -> tuple[list[ItemFailure], list[tuple[str, Path]]]:
    """Save numbers and report; return failures and the written files.

    Errors are returned instead of raised, so that the results are always printed.
    """
    from codecvq.evaluation.report import write_report

    problems: list[ItemFailure] = []
    written: list[tuple[str, Path]] = []
    try:
        written.append(("numbers", result.save(folder / "report")))
    except OSError as error:
        problems.append(failure_of("numbers", error))
    try:
        written.append(("report", write_report(folder, result, run_dir=run)))
    except Exception as error:  # the report reads images, audio and curves of any file
        problems.append(failure_of("report", error))
    return problems, written


def _batch_result(result: Evaluation, problems: Sequence[ItemFailure]) -> BatchResult:
    failures = [ItemFailure(failure.clip, str(failure)) for failure in result.failures]
    return BatchResult(len(result.rows), (*failures, *problems))


def _failure_json(failure: Failure) -> dict[str, str]:
    return {"source": failure.clip, "error": str(failure), **dataclasses.asdict(failure)}


def print_evaluation(result: Evaluation) -> None:
    """Print the table of metrics, and the metrics that are missing."""
    print_table(
        ["measure", "mean", "unit", "95 %", "n"],
        [[row.name, row.value, row.unit, row.interval, row.n] for row in result.table()],
    )
    for name, why in result.unavailable.items():
        print_written((f"not measured: {name}", why))


def _recipe_of(folder: Path) -> Recipe | None:
    from codecvq.training.run import RunFolder

    run = RunFolder(folder)
    return run.recipe() if run.recipe_file.is_file() else None


def _check_run_data(recipe: Recipe | None, root: Path | None, reader: str | None) -> None:
    """Raise CorpusError if there is no run with a corpus, or if --root or --reader lacks a corpus."""
    if recipe is None:
        raise CorpusError(
            "no data to evaluate on. Give a folder, a manifest or a corpus name after the codec."
        )
    if root is not None:
        raise CorpusError(
            f"--root {root} is the location of a registered corpus, but no corpus is given. Give its "
            "name after the codec."
        )
    if reader is not None:
        raise CorpusError(
            f"--reader {reader} selects the reader of the data, but no data are given. Give them after "
            "the codec."
        )


def _clips(
    data: str | None, root: Path | None, reader: str | None, split: str, recipe: Recipe | None, run: Path
) -> Corpus:
    if data is not None:
        return split_clips(open_data(data, root, reader), split)
    from codecvq.training.builders import run_corpus

    assert recipe is not None, "checked by _check_run_data"
    return split_clips(run_corpus(recipe, run), split)

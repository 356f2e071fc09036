"""`codecvq compare`: measure several codecs on the same clips."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecvq.cli.batch import BatchResult, ItemFailure, failure_of
from codecvq.cli.console import (
    Device,
    Json,
    Plugins,
    print_json,
    print_table,
    print_text,
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
    is_corpus_name,
    open_data,
    parse_names,
    split_clips,
)
from codecvq.cli.paths import typed_path, writable_folder
from codecvq.errors import OptionError

if TYPE_CHECKING:
    from codecvq.evaluation.comparison import Comparison
    from codecvq.evaluation.packet_loss import PacketLoss


def compare(
    codecs: Annotated[
        list[str],
        typer.Argument(
            help="Run folders, codec folders, or names listed by: codecvq plugins list --kind codecs. "
            "CODEC@3 uses its first 3 codebooks."
        ),
    ],
    data: Annotated[str, typer.Option("--data", "-d", help="Folder, manifest or corpus name.")] = "prompts",
    split: Annotated[
        str | None,
        typer.Option(help="train, validation, test or all. Default: test for a registered corpus, else all."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="Comma-separated metric names. Default: all fast metrics that are installed."),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            help="Group clips by speaker, language or a manifest column. Default: column 'group', if any."
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Also print differences to this codec, paired by clip.")
    ] = None,
    max_clips: MaxClips = None,
    sample_rate: Annotated[
        int, typer.Option(help="Sample rate of all measurements in Hz.", min=4000, max=192_000)
    ] = 16_000,
    loss: Annotated[
        str | None,
        typer.Option(
            help="Percent of lost packets, comma-separated: 0,1,3,5,10. Compares each codec at each."
        ),
    ] = None,
    packet_ms: Annotated[
        float, typer.Option(help="Length of a packet in ms. A frame is in the packet in which it begins.")
    ] = 20.0,
    burst: Annotated[
        float | None,
        typer.Option(help="Mean number of packets lost in a row. Default: packets are lost independently."),
    ] = None,
    loss_seed: Annotated[int, typer.Option(help="Seed of the lost packets.", min=0)] = 0,
    root: CorpusRoot = None,
    reader: ReaderName = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Output folder for the results.", parser=typed_path, metavar="FOLDER"
        ),
    ] = Path("comparison"),
    audio: Annotated[bool, typer.Option("--audio", help="Save the decoded audio of each codec.")] = False,
    device: Device = "auto",
    plugin: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Compare codecs on the same clips.

    Measures quality and actual bitrates of your codecs, pretrained codecs, Opus and Codec2.

    Example: [bold]codecvq compare runs/mine runs/mine@2 opus-6 codec2-3200 --metrics pesq_wb,stoi[/]
    """
    from codecvq.evaluation.compare import compare as run_comparison
    from codecvq.evaluation.comparison import FILE, LOSS_FILE, TABLE_FILE
    from codecvq.evaluation.metrics import prepare

    if split is None:
        split = "test" if is_corpus_name(data) else "all"
    check_split(split)
    losses = _losses(loss, packet_ms, burst, loss_seed)
    ready = prepare(parse_names(metrics, "--metrics"))
    clips = split_clips(open_data(data, root, reader), split)
    writable_folder(out)
    start = time.monotonic()
    with progress_line() as line:
        result = run_comparison(
            codecs,
            clips,
            ready,
            data=clips.name,
            group_by=group_by,
            max_clips=max_clips,
            sample_rate=sample_rate,
            device=resolve_device(device),
            against=against,
            audio_dir=out / "audio" if audio else None,
            losses=losses,
            progress=lambda codec, done, total: line.show(
                f"{codec}  {done}/{total}  {time_left(done, total, time.monotonic() - start)} left",
                final=done == total,
            ),
        )
    problems: list[ItemFailure] = []
    try:
        result.save(out)
    except OSError as error:  # print the results even if they cannot be saved
        problems.append(failure_of("numbers", error))
    batch = _batch_result(result, problems)
    if as_json:
        print_json({**result.to_json(), **batch.to_json()})
    else:
        print_comparison(result, against)
        batch.print_failures()
        if not problems:
            chart = [("chart", out / LOSS_FILE)] if any(codec.loss for codec in result.codecs) else []
            print_written(("numbers", out / FILE), ("tables", out / TABLE_FILE), *chart)
    batch.exit_if_failed()


def _losses(percents: str | None, packet_ms: float, burst: float | None, seed: int) -> list[PacketLoss]:
    """Return the losses of `--loss`; none without it. Raises OptionError for invalid numbers."""
    from codecvq.evaluation.packet_loss import PacketLoss

    losses = []
    for text in () if percents is None else percents.split(","):
        try:
            losses.append(PacketLoss(float(text), packet_ms, burst, seed))
        except ValueError as error:
            if isinstance(error, OptionError):
                raise
            raise OptionError(
                f"--loss contains {text!r}; give percentages separated by commas, such as 0,1,3,5,10."
            ) from error
    return losses


def _batch_result(result: Comparison, problems: Sequence[ItemFailure]) -> BatchResult:
    """Batch result over all clips of all codecs. A clip that cannot be read counts as one failure."""
    failures = {
        ("" if failure.stage == "read" else f"{codec.name}: ", failure): None
        for codec in result.codecs
        for failure in codec.failures
    }
    listed = (ItemFailure(failure.clip, f"{codec}{failure}") for codec, failure in failures)
    return BatchResult(sum(len(codec.rows) for codec in result.codecs), (*listed, *problems))


def print_comparison(result: Comparison, against: str | None = None) -> None:
    """Print a table for each group, and the codecs and metrics that are missing."""
    for other in (None, against) if against else (None,):
        for group in result.groups:
            clips = max(len(codec.in_group(group)) for codec in result.codecs)
            minus = f", minus {other}" if other else ""
            print_table(result.header(), result.table(group, other), f"{group}: {clips} clips{minus}")
            print_text()
    for name, why in (*result.absent.items(), *result.unavailable.items()):
        print_written((f"not measured: {name}", why))

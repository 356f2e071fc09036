"""`codecvq tokenize` and `codecvq detokenize`: a corpus to a token dataset and back."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import typer

from codecvq.cli.console import (
    CodecArgument,
    Device,
    Json,
    Plugins,
    pick_device,
    print_json,
    print_written,
    progress_line,
    time_left,
)
from codecvq.cli.data import CorpusRoot, corpus_of


def tokenize(
    codec: CodecArgument,
    data: Annotated[str, typer.Argument(help="Folder of audio, manifest, or corpus name.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the dataset.")],
    num_codebooks: Annotated[
        int | None, typer.Option(help="Only the first n codebooks of a residual codec.")
    ] = None,
    root: CorpusRoot = None,
    shard: Annotated[
        str, typer.Option(help="i/n: this process does every n-th shard, beginning with i = 0.")
    ] = "0/1",
    device: Device = "auto",
    plugin: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Turn recordings into a dataset of codes (parquet); the same command goes on where it was stopped.

    Example: [bold]codecvq tokenize runs/quickstart recordings/ --out tokens/[/]
    """
    from codecvq.codec import load
    from codecvq.tokens import tokenize as run_tokenize

    loaded = load(codec, pick_device(device))
    corpus = corpus_of(data, root)
    with progress_line() as line:
        summary = run_tokenize(
            loaded,
            corpus,
            out,
            num_codebooks=num_codebooks,
            shard=_shard(shard),
            progress=lambda at: line.show(
                f"clip {at.clips_done}/{at.clips_total}  {at.failures} failed  "
                f"{time_left(at.clips_done, at.clips_total, at.elapsed_s)} left",
                final=at.clips_done == at.clips_total,
            ),
        )
    if as_json:
        print_json(dataclasses.asdict(summary))
        return
    state = "complete" if summary.complete else "other processes' shards are missing"
    print_written(
        (
            "tokenized",
            f"{summary.clips} clips, {summary.audio_s:.1f} s of audio, {len(summary.failures)} failed; "
            f"{state}",
        ),
        ("dataset", out),
    )


def detokenize(
    codec: CodecArgument,
    tokens: Annotated[Path, typer.Argument(help="Folder of a token dataset.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the audio.")],
    ids: Annotated[str | None, typer.Option(help="Only these clips, commas between.")] = None,
    suffix: Annotated[str, typer.Option(help=".flac or .wav")] = ".flac",
    device: Device = "auto",
    plugin: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Turn a token dataset back into audio, each clip exactly as long as it was.

    Example: [bold]codecvq detokenize runs/quickstart tokens/ --out decoded/[/]
    """
    from codecvq.codec import load
    from codecvq.tokens import detokenize as run_detokenize

    loaded = load(codec, pick_device(device))
    start = time.monotonic()
    with progress_line() as line:
        decoded = run_detokenize(
            loaded,
            tokens,
            out,
            ids.split(",") if ids else None,
            suffix=suffix,
            progress=lambda done, total: line.show(
                f"clip {done}/{total}  {time_left(done, total, time.monotonic() - start)} left",
                final=done == total,
            ),
        )
    if as_json:
        print_json(
            {"folder": str(out), "files": [str(file) for file in decoded.files], "audio_s": decoded.audio_s}
        )
        return
    print_written(
        ("decoded", f"{len(decoded.files)} clips, {decoded.audio_s:.1f} s of audio"), ("folder", out)
    )


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit()):
        raise typer.BadParameter(f"shard is {text!r}; it is i/n, as 0/4")
    return int(index), int(count)

"""`codecvq tokenize` and `codecvq detokenize`: convert a corpus to a token dataset and back."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codecvq.cli.batch import BatchResult, ItemFailure
from codecvq.cli.coding import Out
from codecvq.cli.console import (
    CodecArgument,
    Device,
    Json,
    Plugins,
    print_json,
    print_written,
    progress_line,
    resolve_device,
    time_left,
)
from codecvq.cli.data import CorpusRoot, ReaderName, open_data, parse_names
from codecvq.cli.paths import typed_path, writable_folder
from codecvq.errors import CodecError, CodecvqError

if TYPE_CHECKING:
    from codecvq.tokens import TokenFailure

SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


def tokenize(
    codec: CodecArgument,
    data: Annotated[str, typer.Argument(help="Folder of audio files, manifest or corpus name.")],
    out: Out,
    num_codebooks: Annotated[
        int | None, typer.Option(help="Use only the first N codebooks. The codec must support it.", min=1)
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(help="Cut longer clips at silences into rows of at most this duration (1 to 600)."),
    ] = None,
    root: CorpusRoot = None,
    reader: ReaderName = None,
    shard: Annotated[
        str,
        typer.Option(help="I/N: process I of N, counted from 0, writes every N-th shard."),
    ] = "0/1",
    device: Device = "auto",
    plugin: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Encode a corpus to a token dataset.

    The dataset consists of Parquet files. Run the same command again to resume after an interruption. A clip
    is one row, whatever its length, unless --max-seconds cuts it.

    Example: [bold]codecvq tokenize runs/quickstart recordings/ --out tokens/[/]
    """
    from codecvq.arguments import checked_num_codebooks
    from codecvq.codec import load
    from codecvq.tokens import tokenize as run_tokenize

    part = _part(shard)
    corpus = open_data(data, root, reader)
    loaded = load(codec, resolve_device(device))
    checked_num_codebooks(num_codebooks, loaded, CodecError, "--num-codebooks")
    writable_folder(out)
    with progress_line() as line:
        summary = run_tokenize(
            loaded,
            corpus,
            out,
            num_codebooks=num_codebooks,
            max_seconds=max_seconds,
            shard=part,
            progress=lambda at: line.show(
                f"clip {at.clips_done}/{at.clips_total}  {at.failures} failed  "
                f"{time_left(at.clips_done, at.clips_total, at.elapsed_s)} left",
                final=at.clips_done == at.clips_total,
            ),
        )
    batch = BatchResult(summary.clips + summary.clips_there, _item_failures(summary.failures))
    if as_json:
        print_json({**dataclasses.asdict(summary), **batch.to_json(), "failures": _json(summary.failures)})
    else:
        batch.print_failures()
        state = "complete" if summary.complete else "shards of other processes are missing"
        already = f", {summary.clips_there} already present" if summary.clips_there else ""
        unit = "clips" if max_seconds is None else "rows"
        done = f"{summary.clips} {unit}, {summary.audio_s:.1f} s of audio{already}, {batch.failed} failed"
        print_written(("tokenized", f"{done}; {state}"), ("dataset", out))
    batch.exit_if_failed()


def detokenize(
    codec: CodecArgument,
    tokens: Annotated[Path, typer.Argument(help="Folder of the token dataset.", parser=typed_path)],
    out: Out,
    ids: Annotated[str | None, typer.Option(help="Comma-separated clip ids. Default: all clips.")] = None,
    suffix: Annotated[str, typer.Option(help="Format of the output: .flac or .wav.")] = ".flac",
    device: Device = "auto",
    plugin: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Decode a token dataset to audio.

    Decoded clips have exactly the length of the originals.

    Example: [bold]codecvq detokenize runs/quickstart tokens/ --out decoded/[/]
    """
    from codecvq.codec import load
    from codecvq.tokens import detokenize as run_detokenize
    from codecvq.tokens import read_tokens

    if suffix not in (".flac", ".wav"):
        raise CodecvqError(f"--suffix is {suffix!r}; it must be .flac or .wav")
    chosen = parse_names(ids, "--ids")
    dataset = read_tokens(tokens)
    for id in chosen or ():
        dataset.require(id)
    loaded = load(codec, resolve_device(device))
    writable_folder(out)
    start = time.monotonic()
    with progress_line() as line:
        decoded = run_detokenize(
            loaded,
            tokens,
            out,
            chosen,
            suffix=suffix,
            progress=lambda done, total: line.show(
                f"clip {done}/{total}  {time_left(done, total, time.monotonic() - start)} left",
                final=done == total,
            ),
        )
    batch = BatchResult(
        len(decoded.files),
        _item_failures(decoded.failures),
        not_tried=decoded.not_tried,
        stopped=decoded.stopped,
    )
    if as_json:
        written = {"folder": str(out), "files": list(map(str, decoded.files)), "audio_s": decoded.audio_s}
        print_json({**written, **batch.to_json(), "failures": _json(decoded.failures)})
    else:
        batch.print_failures()
        done = f"{len(decoded.files)} clips, {decoded.audio_s:.1f} s of audio, {batch.failed} failed"
        print_written(("decoded", done), ("folder", out))
    batch.exit_if_failed()


def _item_failures(failures: Sequence[TokenFailure]) -> tuple[ItemFailure, ...]:
    return tuple(ItemFailure(failure.id, failure.error) for failure in failures)


def _json(failures: Sequence[TokenFailure]) -> list[dict[str, Any]]:  # Any: JSON
    return [vars(failure) for failure in failures]


def _part(text: str) -> tuple[int, int]:
    """Parse `i/n` to (i, n). Raises typer.BadParameter for other text."""
    match = SHARD.fullmatch(text)
    if match is None or not int(match[1]) < int(match[2]):
        raise typer.BadParameter(f"--shard is {text!r}; it must be I/N with I from 0 to N - 1, such as 0/4")
    return int(match[1]), int(match[2])

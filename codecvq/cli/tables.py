"""`codecvq tables`: learn the code tables of a codec, which make its .cvq files smaller."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecvq.cli.console import (
    CodecArgument,
    Device,
    Json,
    Plugins,
    print_json,
    print_written,
    progress_line,
    resolve_device,
)
from codecvq.cli.data import CorpusRoot, ReaderName, open_data
from codecvq.errors import CodecError, CorpusError

if TYPE_CHECKING:
    from codecvq.data import Corpus


def tables(
    codec: CodecArgument,
    data: Annotated[
        str | None, typer.Argument(help="Folder, manifest or corpus name. Default: the corpus of the run.")
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="Minutes of speech of the split train to count.", min=1, max=1e4)
    ] = 10.0,
    root: CorpusRoot = None,
    reader: ReaderName = None,
    device: Device = "auto",
    plugin: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Learn code tables, which make .cvq files smaller.

    The tables are the frequencies of codes in context. They are stored with the codec as code_tables.json.
    Codes and hashes of the codec do not change. Training learns tables by itself; use this command for other
    codecs, or to count more speech. A file that was written with tables needs the codec with these tables.

    Example: [bold]codecvq tables runs/quickstart --minutes 30[/]
    """
    from codecvq.codec.tables_file import TABLES
    from codecvq.training.table_learning import store_code_tables

    folder = _codec_folder(codec)
    corpus = (_run_corpus(codec) if data is None else open_data(data, root, reader)).measured()
    with progress_line() as line:
        learned = store_code_tables(
            folder,
            corpus,
            minutes,
            resolve_device(device),
            lambda seconds: line.show(f"{seconds / 60:.1f} of {minutes:g} minutes counted"),
        )
    if learned is None:
        raise CodecError(
            f"no tables were stored in {folder}: {corpus.name} has too little speech in its split train, or "
            "tables save less than 1 % of the bits of its codes. Give other or more speech."
        )
    file = folder / TABLES
    if as_json:
        print_json(
            {
                "file": str(file),
                "bytes": file.stat().st_size,
                "sha256": learned.tables.sha256,
                "frequencies": learned.tables.entries,
                "packed_bits": learned.packed_bits,
                "order_0_bits": learned.order_0_bits,
                "table_bits": learned.table_bits,
            }
        )
        return
    print_written(
        (
            "bits per frame",
            f"{learned.packed_bits:.1f} packed, {learned.order_0_bits:.1f} with frequencies only, "
            f"{learned.table_bits:.1f} with tables, on validation clips",
        ),
        ("tables", f"{file} ({learned.tables.entries:,} frequencies, {file.stat().st_size:,} bytes)"),
    )


def _codec_folder(codec: Path) -> Path:
    """Return the folder with the config.json of a codec or of the last codec of a run."""
    from codecvq.codec.config import CONFIG

    for folder in (codec / "codec", codec):
        if (folder / CONFIG).is_file():
            return folder
    raise CodecError(
        f"{codec} is not the folder of a codec, so it cannot store tables. Give a run folder, or a folder "
        "that Codec.save wrote."
    )


def _run_corpus(run: Path) -> Corpus:
    """Open the corpus of a run, with its splits; `run` may be a codec folder in the run folder."""
    from codecvq.training.builders import run_corpus
    from codecvq.training.run import RunFolder

    for folder in (run, run.parent):
        if (folder / "recipe.yaml").is_file():
            return run_corpus(RunFolder(folder).recipe(), folder)
    raise CorpusError(
        f"{run} is not in a run folder, which would name its corpus. Give the data: codecvq tables {run} DATA"
    )

"""`codecvq encode` and `codecvq decode`: convert audio files to .cvq files and back."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from codecvq.cli.batch import BatchResult, ItemFailure, failure_of, run_batch
from codecvq.cli.console import (
    CodecArgument,
    Device,
    Json,
    Plugins,
    print_json,
    print_written,
    resolve_device,
)
from codecvq.cli.paths import typed_path, writable_folder
from codecvq.errors import AudioError, CodecError, CodecvqError
from codecvq.files import MAX_NAME_BYTES, file_name

Inputs = Annotated[
    list[Path],
    typer.Argument(help="Files, or folders to search for files.", parser=typed_path),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        help="Output folder. Subfolders of the input are preserved.",
        parser=typed_path,
        metavar="FOLDER",
    ),
]


SkipSilence = Annotated[
    bool,
    typer.Option("--skip-silence", help="Do not store silent frames. They decode to comfort noise."),
]
SilenceDb = Annotated[
    float,
    typer.Option(help="Level of --skip-silence in dBFS: frames below it are silent.", min=-120, max=-20),
]


class FileTask(NamedTuple):
    """An input file and the path of its output."""

    source: Path
    target: Path


def encode(
    codec: CodecArgument,
    inputs: Inputs,
    out: Out,
    num_codebooks: Annotated[
        int | None, typer.Option(help="Use only the first N codebooks. The codec must support it.", min=1)
    ] = None,
    mono: Annotated[bool, typer.Option("--mono", help="Mix all channels of a file down to one.")] = False,
    skip_silence: SkipSilence = False,
    silence_db: SilenceDb = -60.0,
    device: Device = "auto",
    plugin: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Compress audio files to .cvq files.

    Audio may have any format, sample rate, length and number of channels. A mono codec codes the channels of
    a file one by one.

    Example: [bold]codecvq encode runs/quickstart recordings/ --out compressed/[/]
    """
    from codecvq.arguments import checked_num_codebooks
    from codecvq.audio import find_audio_files
    from codecvq.bitstream import encode_file
    from codecvq.codec import load

    loaded = load(codec, resolve_device(device))
    checked_num_codebooks(num_codebooks, loaded, CodecError, "--num-codebooks")

    def process(task: FileTask) -> dict[str, Any]:
        encoded = encode_file(
            loaded,
            task.source,
            task.target,
            num_codebooks=num_codebooks,
            mono=mono,
            silence_db=silence_db if skip_silence else None,
        )
        size, seconds = encoded.num_bytes, encoded.duration_s
        return {
            **_paths_json(task),
            "seconds": seconds,
            "channels": encoded.channels,
            "bytes": size,
            "bitrate_bps": 8 * size / seconds,
        }

    tasks, failures = _file_tasks(
        inputs, lambda folder: _require_files(folder, "audio", find_audio_files(folder)), out, ".cvq"
    )
    _run("encoded", tasks, failures, process, out, as_json)


def decode(
    codec: CodecArgument,
    inputs: Inputs,
    out: Out,
    suffix: Annotated[str, typer.Option(help="Format of the output: .wav or .flac.")] = ".wav",
    start: Annotated[
        float, typer.Option("--from", help="Start of the part to decode, in seconds.", min=0)
    ] = 0.0,
    end: Annotated[
        float | None,
        typer.Option("--to", help="End of the part to decode, in seconds. Default: end of the file."),
    ] = None,
    salvage: Annotated[
        bool, typer.Option("--salvage", help="Decode what is whole of damaged files; the rest is silent.")
    ] = False,
    codec_rate: Annotated[
        bool,
        typer.Option(
            "--codec-rate", help="Write audio at the sample rate of the codec, not of the original file."
        ),
    ] = False,
    device: Device = "auto",
    plugin: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Decode .cvq files to audio.

    Decoded audio has exactly the length, the channels and the sample rate of the original.

    Example: [bold]codecvq decode runs/quickstart compressed/ --out decoded/[/]
    """
    from codecvq.bitstream import decode_file
    from codecvq.codec import load

    if suffix not in (".wav", ".flac"):
        raise CodecvqError(f"--suffix is {suffix!r}; it must be .wav or .flac")
    if end is not None and end <= start:
        raise CodecvqError(f"--to is {end:g}; it must be after --from, which is {start:g}")
    loaded = load(codec, resolve_device(device))

    def process(task: FileTask) -> dict[str, Any]:
        decoded = decode_file(
            loaded, task.source, task.target, start_s=start, end_s=end, codec_rate=codec_rate, salvage=salvage
        )
        missing = [str(gap) for gap in decoded.gaps]
        return {**_paths_json(task), "seconds": decoded.duration_s, "missing": missing}

    tasks, failures = _file_tasks(
        inputs, lambda folder: _require_files(folder, ".cvq", sorted(folder.rglob("*.cvq"))), out, suffix
    )
    _run("decoded", tasks, failures, process, out, as_json)


def _require_files(folder: Path, suffixes: str, files: list[Path]) -> list[Path]:
    if not files:
        raise AudioError(f"folder {folder} and its subfolders contain no {suffixes} file.")
    return files


def _file_tasks(
    inputs: Sequence[Path], find: Callable[[Path], list[Path]], out: Path, suffix: str
) -> tuple[list[FileTask], list[ItemFailure]]:
    """Tasks for all inputs, and failures of inputs without a task.

    Failures are folders without files, and files whose output path is already used by another file. A file
    that is given twice is processed once.
    """
    tasks: dict[Path, FileTask] = {}
    failures: list[ItemFailure] = []
    for input_path in inputs:
        try:
            files = (
                [(path, path.relative_to(input_path)) for path in find(input_path)]
                if input_path.is_dir()
                else []
            )
        except (CodecvqError, OSError) as error:
            failures.append(failure_of(str(input_path), error))
            continue
        for source, relative in files or [(input_path, Path(input_path.name))]:
            try:
                task = FileTask(source, _target(tasks, source, out, relative, suffix))
            except AudioError as error:
                failures.append(failure_of(str(source), error))
                continue
            tasks.setdefault(task.target, task)
    return list(tasks.values()), failures


def _target(tasks: dict[Path, FileTask], source: Path, out: Path, relative: Path, suffix: str) -> Path:
    """Output path of a file: its name with the new suffix, or with both suffixes if that path is used.

    The second case occurs for a.wav and a.mp3 in the same folder. Raises AudioError if both paths are used by
    other files.
    """
    for name in (relative.stem, relative.name):
        whole = name + suffix
        if len(os.fsencode(whole)) > MAX_NAME_BYTES:
            whole = file_name(relative.name, suffix)
        target = out / relative.with_name(whole)
        existing = tasks.get(target)
        if existing is None or os.path.abspath(existing.source) == os.path.abspath(source):
            return target
        other = existing.source
        if other.name == source.name:
            break
    raise AudioError(
        f"{source} and {other} would both be written to {target}. Give their common parent folder, so that "
        "subfolders are preserved, or use two output folders."
    )


def _paths_json(task: FileTask) -> dict[str, str]:
    return {"source": str(task.source), "file": str(task.target)}


def _run(
    done_word: str,
    tasks: Sequence[FileTask],
    failures: Sequence[ItemFailure],
    process: Callable[[FileTask], dict[str, Any]],
    out: Path,
    as_json: bool,
) -> None:
    """Run all tasks, print the result, and exit with the exit code."""
    if tasks:
        writable_folder(out)
    done, batch = run_batch(tasks, process, lambda task: str(task.source), failures)
    if as_json:
        print_json({**batch.to_json(), "folder": str(out), "files": done})
    else:
        _print_summary(done_word, done, batch, out)
    batch.exit_if_failed()


def _print_summary(done_word: str, done: Sequence[dict[str, Any]], batch: BatchResult, out: Path) -> None:
    batch.print_failures()
    print_written(*(("missing", f"{row['source']}: {gap}") for row in done for gap in row.get("missing", ())))
    seconds, size = (sum(row.get(key, 0) for row in done) for key in ("seconds", "bytes"))
    rate = f", {size} bytes, {8 * size / seconds / 1000:.2f} kbit/s with headers" if size and seconds else ""
    print_written(
        (done_word, f"{len(done)} files, {seconds:.1f} s of audio{rate}, {batch.failed} failed"),
        ("folder", out),
    )

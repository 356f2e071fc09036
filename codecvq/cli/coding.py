"""`codecvq encode` and `codecvq decode`: audio files to .cvq files and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
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
from codecvq.errors import AudioError, CodecvqError

Inputs = Annotated[list[Path], typer.Argument(help="Files, or folders that are searched for them.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; subfolders are kept.")]


def encode(
    codec: CodecArgument,
    inputs: Inputs,
    out: Out,
    num_codebooks: Annotated[
        int | None, typer.Option(help="Only the first n codebooks of a residual codec.")
    ] = None,
    device: Device = "auto",
    plugin: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Compress audio to .cvq files: any format, rate and number of channels (mixed down to the codec's).

    Example: [bold]codecvq encode runs/quickstart recordings/ --out compressed/[/]
    """
    import torch

    from codecvq.audio import find_audio, read_audio, resample, to_mono
    from codecvq.bitstream import write_cvq
    from codecvq.codec import load

    loaded = load(codec, pick_device(device))

    def one(path: Path, target: Path) -> dict[str, float]:
        audio = read_audio(path)
        samples = to_mono(audio.samples)[None] if loaded.channels == 1 else audio.samples  # [C, S]
        wav = torch.from_numpy(resample(samples, audio.sample_rate, loaded.sample_rate))[None]
        codes = loaded.encode(wav, num_codebooks=num_codebooks)
        size = write_cvq(target, loaded, codes[0].cpu(), wav.shape[2])
        seconds = wav.shape[2] / loaded.sample_rate
        return {"seconds": seconds, "bytes": size, "bitrate_bps": 8 * size / seconds}

    done, failures = _each(
        _pairs(inputs, lambda folder: _found(folder, "audio", find_audio(folder)), out, ".cvq"), one
    )
    _finish("encoded", done, failures, out, as_json)


def decode(
    codec: CodecArgument,
    inputs: Inputs,
    out: Out,
    suffix: Annotated[str, typer.Option(help=".wav or .flac")] = ".wav",
    device: Device = "auto",
    plugin: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Turn .cvq files back into audio, each exactly as long as it was.

    Example: [bold]codecvq decode runs/quickstart compressed/ --out decoded/[/]
    """
    import torch

    from codecvq.audio import write_audio
    from codecvq.bitstream import read_cvq
    from codecvq.codec import load

    if suffix not in (".wav", ".flac"):
        raise CodecvqError(f"suffix is {suffix!r}; it is .wav or .flac")
    loaded = load(codec, pick_device(device))

    def one(path: Path, target: Path) -> dict[str, float]:
        packet = read_cvq(path, loaded)
        codes = torch.as_tensor(packet.codes)[None]
        wav = loaded.decode(codes, num_samples=packet.num_samples)[0].cpu().numpy()
        target.parent.mkdir(parents=True, exist_ok=True)
        write_audio(target, wav, loaded.sample_rate)
        return {"seconds": packet.num_samples / loaded.sample_rate}

    done, failures = _each(
        _pairs(inputs, lambda folder: _found(folder, ".cvq", sorted(folder.rglob("*.cvq"))), out, suffix), one
    )
    _finish("decoded", done, failures, out, as_json)


def _found(folder: Path, suffixes: str, files: list[Path]) -> list[Path]:
    if not files:
        raise AudioError(f"folder {folder} is empty: there is no {suffixes} file in it or below it.")
    return files


def _pairs(
    inputs: Sequence[Path], find: Callable[[Path], list[Path]], out: Path, suffix: str
) -> list[tuple[Path, Path]]:
    """Each file and where its result goes. Raises where two results would have one name."""
    pairs: dict[Path, Path] = {}
    for source, relative in _files(inputs, find):
        target = out / relative.with_suffix(suffix)
        if target in pairs:
            target = out / relative.with_name(relative.name + suffix)  # a.wav and a.mp3 side by side
        if target in pairs:
            raise AudioError(
                f"{pairs[target]} and {source} would both become {target}. Encode them into two folders."
            )
        pairs[target] = source
    return [(source, target) for target, source in pairs.items()]


def _files(inputs: Sequence[Path], find: Callable[[Path], list[Path]]) -> Iterator[tuple[Path, Path]]:
    for path in inputs:
        if path.is_dir():
            yield from ((found, found.relative_to(path)) for found in find(path))
        else:
            yield path, Path(path.name)


def _each(
    pairs: Sequence[tuple[Path, Path]], one: Callable[[Path, Path], dict[str, float]]
) -> tuple[list[dict[str, object]], list[dict[str, str]]]:
    """What each file gave; a file that fails is listed and the rest goes on."""
    done: list[dict[str, object]] = []
    failures: list[dict[str, str]] = []
    start = time.monotonic()
    with progress_line() as line:
        for count, (source, target) in enumerate(pairs, start=1):
            try:
                done.append({"source": str(source), "file": str(target), **one(source, target)})
            except CodecvqError as error:
                failures.append({"source": str(source), "error": str(error)})
            left = time_left(count, len(pairs), time.monotonic() - start)
            line.show(
                f"file {count}/{len(pairs)}  {len(failures)} failed  {left} left", final=count == len(pairs)
            )
    return done, failures


def _finish(
    verb: str, done: list[dict[str, object]], failures: list[dict[str, str]], out: Path, as_json: bool
) -> None:
    if as_json:
        print_json({"files": done, "failures": failures})
    else:
        for failure in failures:
            print_written(("failed", failure["error"]))
        seconds = sum(float(str(row["seconds"])) for row in done)
        size = sum(int(str(row.get("bytes", 0))) for row in done)
        rate = (
            f", {size} bytes, {8 * size / seconds / 1000:.2f} kbit/s with headers" if size and seconds else ""
        )
        print_written(
            (verb, f"{len(done)} files, {seconds:.1f} s of audio{rate}, {len(failures)} failed"),
            ("folder", out),
        )
    if failures:
        raise typer.Exit(1 if done else 2)

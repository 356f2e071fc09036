"""`codecvq stream encode|decode|echo|bench`: audio and codes on standard input and output, block by block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, BinaryIO, NoReturn

import typer

from codecvq.cli.coding import SilenceDb, SkipSilence
from codecvq.cli.console import (
    CodecArgument,
    Device,
    Json,
    Plugins,
    print_json,
    print_note,
    print_table,
    print_text,
    resolve_device,
)
from codecvq.cli.standard_streams import binary_input, binary_output
from codecvq.errors import BitstreamError, CodecError
from codecvq.signals import StopSignal

if TYPE_CHECKING:
    from pathlib import Path

    from codecvq.api.codec import AudioCodec
    from codecvq.audio import PcmReader
    from codecvq.bitstream import DecodedFile

CLOSED_PIPE = 141  # exit code of programs that SIGPIPE ends
PIPE_AUDIO = "Pipe audio to it, for example from: ffmpeg -i speech.mp3 -f wav -"
PIPE_CODES = "Pipe a .cvq file to it, for example with: < speech.cvq"
REDIRECT = "Redirect it to a file with > FILE, or pipe it to a program with | PROGRAM."

app = typer.Typer(
    help="Encode and decode audio on standard input and output, block by block.", no_args_is_help=True
)


def _format(text: str) -> str:
    """Return the name of an audio format. S16_LE and FLOAT_LE are its names in arecord."""
    from codecvq.audio import PCM_FORMATS

    name = text.lower().replace("_", "").replace("floatle", "f32le")
    if name not in PCM_FORMATS:
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(PCM_FORMATS)}.")
    return name


Format = Annotated[
    str,
    typer.Option(
        "--format",
        "-f",
        help="Format of the audio: wav, or s16le or f32le for samples without a header.",
        parser=_format,
        metavar="FORMAT",
    ),
]
InputRate = Annotated[
    int | None,
    typer.Option(
        "--rate", "-r", help="Sample rate of samples without a header, in Hz. Default: that of the codec."
    ),
]
InputChannels = Annotated[
    int | None,
    typer.Option("--channels", "-c", help="Channels of samples without a header. Default: as the codec."),
]
BlockMs = Annotated[
    float, typer.Option(help="Length of a block of audio, in milliseconds.", min=1, max=10_000)
]
NumCodebooks = Annotated[
    int | None, typer.Option(help="Use only the first N codebooks. The codec must support it.", min=1)
]


@app.command()
def encode(
    codec: CodecArgument,
    format: Format = "wav",
    rate: InputRate = None,
    channels: InputChannels = None,
    block_ms: BlockMs = 20,
    chunk_ms: Annotated[
        float,
        typer.Option(
            help="Length of a chunk of the .cvq file, in milliseconds. Shorter chunks arrive sooner and take "
            "more bytes.",
            min=1,
            max=10_000,
        ),
    ] = 100,
    num_codebooks: NumCodebooks = None,
    skip_silence: SkipSilence = False,
    silence_db: SilenceDb = -60.0,
    device: Device = "auto",
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """Encode audio on standard input to a .cvq file on standard output.

    Each chunk is written as soon as it is complete. The recording ends with the input, or with Ctrl-C.

    Example: [bold]arecord -f S16_LE -r 16000 | codecvq stream encode speech-16k-stream > speech.cvq[/]
    """
    from codecvq.bitstream import encode_pipe

    loaded = _loaded(codec, device, num_codebooks)
    loaded.stream_encoder()  # raises before the first sample arrives

    def run(source: BinaryIO, target: BinaryIO) -> str:
        audio = _reader(source, format, rate, channels, loaded)
        encoded = encode_pipe(
            loaded,
            audio,
            target,
            num_codebooks=num_codebooks,
            block_s=block_ms / 1000,
            chunk_s=chunk_ms / 1000,
            silence_db=silence_db if skip_silence else None,
        )
        size, seconds = encoded.num_bytes, encoded.duration_s
        kbps = f", {8 * size / seconds / 1000:.2f} kbit/s with headers" if seconds else ""
        return f"encoded: {seconds:.2f} s of audio, {size} bytes{kbps}"

    _run(run, PIPE_AUDIO)


@app.command()
def decode(
    codec: CodecArgument,
    format: Format = "wav",
    rate: Annotated[
        int | None,
        typer.Option("--rate", "-r", help="Sample rate of the output in Hz. Default: as the original."),
    ] = None,
    device: Device = "auto",
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """Decode a .cvq file on standard input to audio on standard output.

    Each chunk is decoded as soon as it arrives. If the input is damaged, the audio before the damage is
    written.

    Example: [bold]codecvq stream decode speech-16k-stream < speech.cvq | aplay[/]
    """
    from codecvq.bitstream import decode_pipe

    loaded = _loaded(codec, device)
    loaded.stream_decoder()

    def run(source: BinaryIO, target: BinaryIO) -> str:
        return _summary("decoded", decode_pipe(loaded, source, target, format, rate), format)

    _run(run, PIPE_CODES)


@app.command()
def echo(
    codec: CodecArgument,
    format: Format = "wav",
    rate: InputRate = None,
    channels: InputChannels = None,
    block_ms: BlockMs = 20,
    num_codebooks: NumCodebooks = None,
    device: Device = "auto",
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """Encode audio on standard input and write the decoded audio to standard output.

    The output has the format, sample rate and channels of the input.

    Example: [bold]arecord -f S16_LE -r 16000 | codecvq stream echo speech-16k-stream | aplay[/]
    """
    from codecvq.audio import PcmWriter
    from codecvq.bitstream import echo_pipe

    loaded = _loaded(codec, device, num_codebooks)
    loaded.stream_encoder()
    loaded.stream_decoder()

    def run(source: BinaryIO, target: BinaryIO) -> str:
        audio = _reader(source, format, rate, channels, loaded)
        decoded = echo_pipe(
            loaded,
            audio,
            PcmWriter(target, format, audio.sample_rate, audio.channels),
            num_codebooks=num_codebooks,
            block_s=block_ms / 1000,
        )
        return _summary("decoded", decoded, format)

    _run(run, PIPE_AUDIO)


@app.command()
def bench(
    codec: CodecArgument,
    block_ms: BlockMs = 20,
    batch: Annotated[int, typer.Option(help="Streams that are processed together.", min=1, max=1024)] = 1,
    seconds: Annotated[float, typer.Option(help="Duration of the audio of each stream.", min=1)] = 20.0,
    device: Device = "cpu",
    plugin: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Measure the time of encoding and decoding blocks of bundled speech, on one thread.

    The real-time factor is the time of all blocks divided by the duration of their audio.

    Example: [bold]codecvq stream bench speech-16k-stream[/]
    """
    from codecvq.evaluation.machine import this_machine
    from codecvq.evaluation.stream_speed import bundled_speech, measure_stream

    loaded = _loaded(codec, device)
    speed = measure_stream(loaded, bundled_speech(loaded, seconds, batch), block_ms / 1000)
    machine = this_machine(loaded.device)
    if as_json:
        result = {"codec": loaded.name, "latency_ms": loaded.latency_ms, **asdict(speed)}
        print_json({**result, "machine": asdict(machine)})
        return
    latency = "unknown" if loaded.latency_ms is None else f"{loaded.latency_ms:g} ms"
    print_text(f"codec: {loaded.name}, algorithmic latency: {latency}")
    print_text(f"machine: {machine.processor}, {machine.device}, {machine.threads} thread")
    print_table(
        ["", "real-time factor", "median ms", "99 % ms"],
        [
            [name, f"{times.real_time_factor:.3f}", f"{times.median_ms:.2f}", f"{times.p99_ms:.2f}"]
            for name, times in (("encode", speed.encode), ("decode", speed.decode))
        ],
        f"{speed.blocks} blocks of {speed.block_ms:g} ms, batch {speed.batch}",
    )


def _loaded(path: Path, device: str, num_codebooks: int | None = None) -> AudioCodec:
    """Return a codec that computes on one thread: more threads slow small blocks down."""
    import torch

    from codecvq.arguments import checked_num_codebooks
    from codecvq.codec import load

    torch.set_num_threads(1)
    loaded = load(path, resolve_device(device))
    checked_num_codebooks(num_codebooks, loaded, CodecError, "--num-codebooks")
    return loaded


def _reader(
    source: BinaryIO, form: str, rate: int | None, channels: int | None, codec: AudioCodec
) -> PcmReader:
    """Return the audio on standard input; without a header, it is like the audio of the codec by default."""
    from codecvq.audio import PcmReader

    if form != "wav":
        rate = codec.sample_rate if rate is None else rate
        channels = codec.channels if channels is None else channels
    return PcmReader(source, form, rate, channels)


def _run(function: Callable[[BinaryIO, BinaryIO], str], advice: str) -> None:
    """Call `function` with standard input and output, and print the line that it returns on stderr.

    A signal ends the input. Exits with a code above 128 after a signal, and if the reader of the output has
    closed it.
    """
    stop = StopSignal()
    try:
        with stop.watch(), binary_output(REDIRECT) as target:
            line = function(binary_input(stop, advice), target)
    except BrokenPipeError:
        _exit(128 + stop.number if stop.number else CLOSED_PIPE)
    except BitstreamError as error:
        if stop.number:  # it ends within a chunk
            _exit(128 + stop.number)
        raise BitstreamError(f"standard input: {error}") from error
    print_note(line)
    if stop.number:
        _exit(128 + stop.number)


def _exit(code: int) -> NoReturn:
    raise typer.Exit(code)


def _summary(what: str, audio: DecodedFile, form: str) -> str:
    return (
        f"{what}: {audio.duration_s:.2f} s of audio, {form}, {audio.channels} channels at "
        f"{audio.sample_rate} Hz"
    )

"""`codecvq stream`: audio and .cvq files on pipes, equal to those of files, and what happens to pipes."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_codecs import HOP, RATE, LevelCodec
from test_cvq_recordings import STEP, check_equal, recorded, wave
from test_recordings import FramewiseCodec, network_codec

from codecvq.audio import PcmReader, PcmWriter, read_audio
from codecvq.bitstream import (
    CvqReader,
    decode_file,
    decode_pipe,
    echo_pipe,
    encode_file,
    encode_pipe,
    read_cvq,
)
from codecvq.cli.app import main
from codecvq.errors import AudioError, BitstreamError, StreamingError

CODECS = {"frames": FramewiseCodec, "stereo": lambda: FramewiseCodec(channels=2), "network": network_codec}
SUBTYPES = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
MINUTE = 60  # seconds that a process may take on a busy machine; processes that hang take longer


class Pipe(io.RawIOBase):
    """The reading end of a pipe: each read returns at most `most` bytes, and nothing can be read again."""

    def __init__(self, data: bytes, most: int = 1000) -> None:
        self._data, self._most, self.at = data, most, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        end = self.at + min(self._most, len(self._data) if size < 0 else size)
        part, self.at = self._data[self.at : end], min(end, len(self._data))
        return part


class Output(io.BytesIO):
    """The writing end of a pipe."""

    def seekable(self) -> bool:
        return False


def wav_bytes(samples: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples.T, rate, subtype=subtype, format="WAV")
    return file.getvalue()


def read_all(reader: PcmReader, count: int) -> np.ndarray:
    blocks = [reader.read(count)]
    while blocks[-1].shape[1]:
        blocks.append(reader.read(count))
    return np.concatenate(blocks, axis=1)


# audio on pipes


@pytest.mark.parametrize("subtype", SUBTYPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_wav_on_a_pipe_has_the_samples_of_the_file(tmp_path: Path, subtype: str, channels: int) -> None:
    data = wav_bytes(wave(5001, channels), 22050, subtype)
    (tmp_path / "a.wav").write_bytes(data)
    expected = read_audio(tmp_path / "a.wav").samples
    for most, count in ((1, 5001), (7, 100), (10_000, 5002)):
        reader = PcmReader(Pipe(data, most))
        assert (reader.sample_rate, reader.channels) == (22050, channels)
        assert np.array_equal(read_all(reader, count), expected)
        assert reader.num_samples == 5001


@pytest.mark.parametrize("size", [0, 0x7FFF_F000, 0x8000_0000, 0xFFFF_FFFF], ids=hex)
def test_wav_without_a_length_is_read_to_the_end(size: int) -> None:
    data = bytearray(wav_bytes(wave(999, 2)))
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", size)
    assert read_all(PcmReader(Pipe(bytes(data))), 100).shape == (2, 999)


def test_what_follows_the_samples_of_a_wav_file_is_no_audio() -> None:
    data = wav_bytes(wave(999, 1)) + b"\0LIST" + struct.pack("<I", 4) + b"INFO"
    assert read_all(PcmReader(Pipe(data)), 100).shape == (1, 999)


@pytest.mark.parametrize(("form", "dtype", "scale"), [("s16le", "<i2", 32768), ("f32le", "<f4", 1)])
def test_samples_without_a_header_return(form: str, dtype: str, scale: int) -> None:
    whole = (np.rint(wave(777, 2) * 32768) / 32768).astype(np.float32)
    data = (whole * scale).astype(dtype).T.tobytes()
    assert np.array_equal(read_all(PcmReader(Pipe(data + b"\0", 3), form, RATE, 2), 10), whole)
    target = Output()
    writer = PcmWriter(target, form, RATE, 2)
    for block in np.array_split(whole, 5, axis=1):
        writer.write(block)
    assert target.getvalue() == data


def test_a_written_wav_header_has_sizes_in_a_file_and_none_on_a_pipe(tmp_path: Path) -> None:
    whole = (np.rint(wave(777, 2) * 32768) / 32768).astype(np.float32)
    pipe = Output()
    with (tmp_path / "a.wav").open("wb") as file:
        for stream in (pipe, file):
            writer = PcmWriter(stream, "wav", 44100, 2)
            writer.write(whole[:, :500])
            writer.write(whole[:, 500:])
            writer.close()
    info = soundfile.info(tmp_path / "a.wav")
    assert (info.frames, info.samplerate, info.channels, info.subtype) == (777, 44100, 2, "PCM_16")
    assert np.array_equal(read_audio(tmp_path / "a.wav").samples, whole)
    assert np.array_equal(read_all(PcmReader(Pipe(pipe.getvalue())), 100), whole)
    assert pipe.getvalue()[40:44] == b"\xff" * 4
    before = (tmp_path / "a.wav").read_bytes()
    with (tmp_path / "a.wav").open("ab", buffering=0) as file:  # as after >> in a shell
        writer = PcmWriter(file, "wav", 44100, 2)
        writer.write(whole)
        writer.close()
    assert (tmp_path / "a.wav").read_bytes() == before + pipe.getvalue()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_wav_headers_raise_the_documented_error_only(data: st.DataObject) -> None:
    whole = bytearray(wav_bytes(wave(50, 2), subtype=data.draw(st.sampled_from(SUBTYPES))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, 60))] = data.draw(st.sampled_from([0, 1, 2, 3, 8, 127, 128, 254, 255]))
    damaged = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        samples = read_all(PcmReader(Pipe(damaged)), 1000)
    except AudioError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
    else:
        assert samples.size <= len(damaged)
        assert np.isfinite(samples).all()


def test_errors_of_audio_say_what_is_needed() -> None:
    data = wav_bytes(wave(50, 2))
    with pytest.raises(AudioError, match="sample rate of 16000 Hz, but 8000 Hz is given"):
        PcmReader(Pipe(data), sample_rate=8000)
    with pytest.raises(AudioError, match="number of channels of 2, but 1 is given"):
        PcmReader(Pipe(data), channels=1)
    with pytest.raises(AudioError, match="is empty"):
        PcmReader(Pipe(b""))
    with pytest.raises(AudioError, match="no header"):
        PcmReader(Pipe(data), "s16le")
    with pytest.raises(AudioError, match="0 channels"):
        PcmReader(Pipe(data), "s16le", RATE, 0)
    with pytest.raises(AudioError, match="one of wav, s16le, f32le"):
        PcmReader(Pipe(data), "mp3")
    with pytest.raises(AudioError, match=r"NaN or infinite samples after 0\.00 s"):
        PcmReader(Pipe(b"\xff" * 80), "f32le", RATE, 1).read(20)


# equality with files


@cache
def coded(name: str, rate: int, channels: int, samples: int) -> tuple[bytes, bytes, np.ndarray]:
    """A WAV file, its .cvq file and the samples decoded from it: the references."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        folder, codec = Path(place), CODECS[name]()
        source = recorded(folder, samples, rate, channels)
        encode_file(codec, source, folder / "a.cvq", chunk_s=0.1)
        decode_file(codec, folder / "a.cvq", folder / "out.wav")
        decoded = read_audio(folder / "out.wav").samples
        return source.read_bytes(), (folder / "a.cvq").read_bytes(), decoded


CASES = [
    *((rate, channels, name) for rate, channels in ((8000, 1), (44100, 2)) for name in CODECS),
    (RATE, 1, "network"),
    (RATE, 3, "stereo"),
]


@pytest.mark.parametrize(("rate", "channels", "name"), CASES)
@pytest.mark.parametrize("block_s", [0.0001, 0.02, 3.0])
def test_pipes_have_the_bytes_and_samples_of_files(
    rate: int, channels: int, name: str, block_s: float
) -> None:
    samples = round(0.61 * rate) if block_s > 0.001 else round(0.05 * rate)
    audio, data, expected = coded(name, rate, channels, samples)
    codec, target = CODECS[name](), Output()
    encoded = encode_pipe(codec, PcmReader(Pipe(audio)), target, block_s=block_s)
    assert target.getvalue() == data
    assert (encoded.num_samples, encoded.num_bytes) == (samples, len(data))
    for source in (Pipe(data, 1), io.BytesIO(data)):
        output = Output()
        decoded = decode_pipe(codec, source, output, "f32le")
        assert (decoded.num_samples, decoded.sample_rate, decoded.channels) == (samples, rate, channels)
        reader = PcmReader(Pipe(output.getvalue()), "f32le", rate, channels)
        check_equal(np.clip(read_all(reader, 1000), -1, 1 - STEP), expected)
    output = Output()
    echo_pipe(codec, PcmReader(Pipe(audio)), PcmWriter(output, "wav", rate, channels), block_s=block_s)
    check_equal(read_all(PcmReader(Pipe(output.getvalue())), 1000), expected, 1.01 * STEP)


@pytest.mark.parametrize("samples", [0, 1, HOP - 1, HOP, HOP + 1, 2 * HOP, 3 * HOP + 1])
def test_any_length_returns(samples: int) -> None:
    codec, target, output, echoed = FramewiseCodec(), Output(), Output(), Output()
    audio = (wave(3 * HOP + 1, 1)[:, :samples] * 32768).astype("<i2").tobytes()
    encode_pipe(codec, PcmReader(Pipe(audio), "s16le", RATE, 1), target)
    assert decode_pipe(codec, Pipe(target.getvalue()), output, "s16le").num_samples == samples
    echo_pipe(codec, PcmReader(Pipe(audio), "s16le", RATE, 1), PcmWriter(echoed, "s16le", RATE, 1))
    assert len(output.getvalue()) == 2 * samples
    assert echoed.getvalue() == output.getvalue()


def test_audio_is_decoded_at_another_rate_on_request() -> None:
    _, data, _ = coded("frames", 8000, 1, 4880)
    output = Output()
    assert decode_pipe(FramewiseCodec(), Pipe(data), output, "wav", 48_000).num_samples == 6 * 4880
    assert PcmReader(Pipe(output.getvalue())).sample_rate == 48_000


# each block is written as soon as it is determined


class Watched(Pipe):
    """A pipe that records the length of `output` before each read: `lengths[at]`."""

    def __init__(self, data: bytes, output: Output, most: int) -> None:
        super().__init__(data, most)
        self.output, self.lengths = output, dict[int, int]()

    def read(self, size: int = -1, /) -> bytes:
        self.lengths[self.at] = len(self.output.getvalue())
        return super().read(size)


def test_a_chunk_is_written_before_more_audio_is_read() -> None:
    target = Output()
    source = Watched(np.zeros(RATE, dtype="<i2").tobytes(), target, 2 * HOP)
    encode_pipe(FramewiseCodec(), PcmReader(source, "s16le", RATE, 1), target, block_s=0.01, chunk_s=0.05)
    written = [source.lengths[2 * HOP * frame] for frame in range(1, 100)]
    grown = [frame for frame, (a, b) in enumerate(itertools.pairwise(written), 2) if b > a]
    assert grown == list(range(5, 100, 5))


def test_a_chunk_is_decoded_before_more_bytes_are_read_but_for_its_last_frame() -> None:
    data = coded("frames", RATE, 1, RATE)[1]
    output = Output()
    source = Watched(data, output, 1)
    decode_pipe(FramewiseCodec(), source, output, "s16le")
    lengths = sorted({length // 2 for length in source.lengths.values()})
    chunk = 10 * HOP
    assert lengths == [0, *(end - HOP + 1 for end in range(chunk, RATE + 1, chunk))]
    assert len(output.getvalue()) == 2 * RATE


def test_an_echo_of_a_block_is_written_before_more_audio_is_read() -> None:
    output = Output()
    source = Watched(np.zeros(RATE, dtype="<i2").tobytes(), output, 2 * HOP)
    reader, writer = PcmReader(source, "s16le", RATE, 1), PcmWriter(output, "s16le", RATE, 1)
    echo_pipe(FramewiseCodec(), reader, writer, block_s=0.01)
    assert all(length == at for at, length in source.lengths.items())


# damage


def test_the_audio_before_damage_is_written() -> None:
    data = coded("frames", RATE, 1, RATE)[1]
    whole = Output()
    decode_pipe(FramewiseCodec(), Pipe(data), whole, "s16le")
    chunk, lengths = 2 * 10 * HOP, set()
    for end in range(len(data)):
        output = Output()
        with pytest.raises(BitstreamError):
            decode_pipe(FramewiseCodec(), Pipe(data[:end]), output, "s16le")
        assert whole.getvalue().startswith(output.getvalue())
        lengths.add(len(output.getvalue()))
    assert lengths == set(range(0, 2 * RATE + 1, chunk))


def test_changed_bytes_raise_the_documented_error_only() -> None:
    data = coded("network", RATE, 1, 9760)[1]
    for at in range(0, len(data), 3):
        changed = bytearray(data)
        changed[at] ^= 0x41
        with pytest.raises(BitstreamError):
            decode_pipe(network_codec(), Pipe(bytes(changed)), Output(), "s16le")


def test_codecs_that_cannot_stream_raise_before_they_read() -> None:
    source = Pipe(np.zeros(RATE, dtype="<i2").tobytes())
    with pytest.raises(StreamingError):
        encode_pipe(LevelCodec(), PcmReader(source, "s16le", RATE, 1), Output())
    with pytest.raises(StreamingError):
        decode_pipe(LevelCodec(), source, Output())
    assert source.at == 0


# the commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a codec, a recording of 0.61 s at 44.1 kHz in stereo, and its .cvq file."""
    place = tmp_path_factory.mktemp("stream")
    network_codec().save(place / "codec")
    audio, _, _ = coded("network", 44100, 2, 26901)
    (place / "in.wav").write_bytes(audio)
    encode_file(network_codec(), place / "in.wav", place / "in.cvq", chunk_s=0.1)
    return place


@pytest.fixture
def stream(
    folder: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> Iterator[Any]:  # a function (arguments, stdin) -> (exit code, stdout, stderr)
    """`codecvq stream` in this process, on file descriptors 0 and 1."""
    before, threads = os.dup(0), torch.get_num_threads()

    def call(command: str, *arguments: object, stdin: bytes = b"") -> tuple[int, bytes, str]:
        (tmp_path / "stdin").write_bytes(stdin)
        with (tmp_path / "stdin").open("rb") as file:
            os.dup2(file.fileno(), 0)
        with pytest.raises(SystemExit) as leaving:
            main(["stream", command, str(folder / "codec"), *map(str, arguments)])
        captured = capfdbinary.readouterr()
        return int(leaving.value.code or 0), captured.out, captured.err.decode()

    yield call
    os.dup2(before, 0)
    os.close(before)
    torch.set_num_threads(threads)


def test_commands_have_the_bytes_and_samples_of_files(stream: Any, folder: Path) -> None:
    audio, data, expected = coded("network", 44100, 2, 26901)
    code, encoded, messages = stream("encode", "--device", "cpu", stdin=audio)
    assert (code, encoded) == (0, data)
    assert messages.startswith(f"encoded: 0.61 s of audio, {len(data)} bytes, ")
    code, decoded, messages = stream("decode", "--format", "S16_LE", stdin=encoded)
    assert (code, messages) == (0, "decoded: 0.61 s of audio, s16le, 2 channels at 44100 Hz\n")
    samples = read_all(PcmReader(Pipe(decoded), "s16le", 44100, 2), 1000)
    check_equal(samples, expected, 1.01 * STEP)
    raw = (read_audio(folder / "in.wav").samples.T).astype("<f4").tobytes()
    code, echoed, _ = stream("echo", "-f", "f32le", "-r", 44100, "-c", 2, stdin=raw)
    assert code == 0
    reader = PcmReader(Pipe(echoed), "f32le", 44100, 2)
    check_equal(np.clip(read_all(reader, 999), -1, 1 - STEP), expected)


def test_options_change_blocks_chunks_and_codebooks(stream: Any, folder: Path, tmp_path: Path) -> None:
    options = ("--block-ms", 7, "--chunk-ms", 20, "--num-codebooks", 1)
    code, encoded, _ = stream("encode", *options, stdin=(folder / "in.wav").read_bytes())
    (tmp_path / "a.cvq").write_bytes(encoded)
    codes = read_cvq(tmp_path / "a.cvq", network_codec()).codes
    assert code == 0
    assert np.array_equal(codes, read_cvq(folder / "in.cvq", network_codec()).codes[..., :1, :])
    with (tmp_path / "a.cvq").open("rb") as file:
        assert CvqReader(file).chunk_frames == 2


def test_errors_take_one_line(stream: Any) -> None:
    audio, data, _ = coded("network", 44100, 2, 26901)
    for command, arguments, stdin, reason in (
        ("encode", (), data, "no WAV header"),
        ("decode", (), audio, "standard input: it starts with b'RIFF'"),
        ("decode", (), data[:-30], "standard input: "),
        ("encode", ("--format", "mp3"), b"", "'mp3' is not one of wav, s16le, f32le"),
        ("encode", ("--rate", "8000"), audio, "states a sample rate of 44100 Hz, but 8000 Hz is given"),
        ("encode", ("--num-codebooks", "9"), audio, "--num-codebooks"),
        ("decode", ("--rate", "1"), data, "1 Hz"),
    ):
        code, output, messages = stream(command, *arguments, stdin=stdin)
        assert code == 2, messages
        assert reason in messages
        assert len(messages.splitlines()) == 1
        assert messages.startswith("error: ")
        assert not output or stdin == data[:-30]


def test_the_times_of_blocks_are_printed(stream: Any) -> None:
    code, output, _ = stream("bench", "--seconds", 1, "--batch", 2, "--json")
    result = json.loads(output)
    assert code == 0
    assert (result["blocks"], result["batch"], result["block_ms"]) == (50, 2, 20)
    assert result["latency_ms"] == network_codec().latency_ms
    assert result["machine"]["threads"] == 1
    for direction in ("encode", "decode"):
        times = result[direction]
        assert 0 < times["median_ms"] <= times["p99_ms"]
        assert times["real_time_factor"] > 0
    code, output, _ = stream("bench", "--seconds", 1)
    assert code == 0
    assert b"real-time factor" in output


# processes


def start(folder: Path, *arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "codecvq", "stream", arguments[0], str(folder / "codec"), *arguments[1:]]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, **streams}
    return subprocess.Popen(command, stderr=subprocess.PIPE, bufsize=0, **streams)


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Exit code and messages of a process, which must end."""
    try:
        messages = process.communicate(timeout=MINUTE)[1].decode()
    finally:
        process.kill()
    assert "Traceback" not in messages
    return process.returncode, messages


def test_a_pipe_of_ffmpeg_and_the_commands(folder: Path) -> None:
    program = shutil.which("ffmpeg")
    if program is None:
        pytest.skip("needs the program ffmpeg")
    ffmpeg = [program, "-v", "error"]
    pipe = subprocess.PIPE
    source = subprocess.Popen([*ffmpeg, "-i", folder / "in.wav", "-f", "wav", "-"], stdout=pipe, stderr=pipe)
    encoder = start(folder, "encode", stdin=source.stdout)
    decoder = start(folder, "decode", stdin=encoder.stdout)
    target = subprocess.Popen(
        [*ffmpeg, "-y", "-i", "-", folder / "out.wav"], stdin=decoder.stdout, stderr=pipe
    )  # fmt: skip
    for process in (source, encoder, decoder):
        assert process.stdout is not None
        process.stdout.close()  # only the next process holds it, as in a shell
        process.stdout = None
    assert [ended(each)[0] for each in (source, encoder, decoder, target)] == [0, 0, 0, 0]
    check_equal(read_audio(folder / "out.wav").samples, coded("network", 44100, 2, 26901)[2], 1.01 * STEP)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_recording(folder: Path, number: int) -> None:
    encoder = start(folder, "encode", "--format", "s16le")
    assert encoder.stdin is not None
    assert encoder.stdout is not None
    encoder.stdin.write(np.zeros(RATE, dtype="<i2").tobytes())  # and the pipe stays open
    data = encoder.stdout.read(4)  # it runs
    encoder.send_signal(number)
    data += encoder.stdout.read()
    code, messages = ended(encoder)
    assert code == 128 + number
    assert messages.startswith("encoded: ")
    (folder / "signal.cvq").write_bytes(data)
    read_cvq(folder / "signal.cvq", network_codec())  # raises if it were not complete


@pytest.mark.slow
@pytest.mark.parametrize("command", ["encode", "decode", "echo"])
def test_a_closed_output_ends_the_command_without_a_message(folder: Path, command: str) -> None:
    noise = np.random.default_rng(0).integers(-9000, 9000, 60 * RATE, dtype=np.int16).tobytes()
    (folder / "long.raw").write_bytes(noise)
    if command == "decode":
        target = io.BytesIO()
        reader = PcmReader(Pipe(noise, 1 << 20), "s16le", RATE, 1)
        encode_pipe(network_codec(), reader, target, block_s=1)  # type: ignore[arg-type]
        (folder / "long.raw").write_bytes(target.getvalue())
    with (folder / "long.raw").open("rb") as file:
        process = start(folder, command, "--format", "s16le", stdin=file)
        assert process.stdout is not None
        process.stdout.read(100)
        process.stdout.close()
        process.stdout = None
        assert ended(process) == (141, "")


def running_pipe(folder: Path) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
    """An encoder and a decoder of its output, after a second of silence."""
    encoder = start(folder, "encode", "--format", "s16le")
    decoder = start(folder, "decode", "--format", "s16le", stdin=encoder.stdout)
    assert encoder.stdin is not None
    assert encoder.stdout is not None
    assert decoder.stdout is not None
    encoder.stdout.close()
    encoder.stdout = None
    encoder.stdin.write(np.zeros(RATE, dtype="<i2").tobytes())
    decoder.stdout.read(1000)  # both run
    return encoder, decoder


@pytest.mark.slow
def test_a_killed_encoder_ends_the_decoder_after_what_it_sent(folder: Path) -> None:
    encoder, decoder = running_pipe(folder)
    encoder.kill()
    assert ended(encoder)[0] == -signal.SIGKILL
    code, messages = ended(decoder)
    assert code == 2
    assert messages.startswith("error: standard input: chunk ")
    assert len(messages.splitlines()) == 1


@pytest.mark.slow
def test_a_killed_decoder_ends_the_encoder(folder: Path) -> None:
    encoder, decoder = running_pipe(folder)
    decoder.kill()
    assert encoder.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        for _ in range(1000):
            encoder.stdin.write(np.zeros(RATE, dtype="<i2").tobytes())
    encoder.stdin = None
    assert ended(encoder) == (141, "")

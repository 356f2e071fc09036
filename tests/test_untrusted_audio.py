"""Untrusted audio: bounds on rates, channels and durations, false lengths in headers, and special files."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codecvq.audio import duration_s, limits, read_audio, resample, to_mono, write_audio
from codecvq.errors import AudioError

RATE = 16000


def speech_like(seconds: float, rate: int = RATE) -> np.ndarray:
    """Seeded noise of 0.1 times a slow envelope: [S]."""
    time_s = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(3).normal(0, 0.1, time_s.size)
    return (noise * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time_s))).astype(np.float32)


def written(path: Path, seconds: float = 3.0, rate: int = RATE, **options: str) -> Path:
    with soundfile.SoundFile(path, "w", rate, 1, **options) as file:
        file.write(speech_like(seconds, rate))
    return path


# parts

FORMATS = {
    "pcm.wav": {"format": "WAV", "subtype": "PCM_16"},
    "float.wav": {"format": "WAV", "subtype": "FLOAT"},
    "mulaw.wav": {"format": "WAV", "subtype": "ULAW"},
    "ima.wav": {"format": "WAV", "subtype": "IMA_ADPCM"},
    "ms.wav": {"format": "WAV", "subtype": "MS_ADPCM"},
    "gsm.wav": {"format": "WAV", "subtype": "GSM610"},
    "g721.wav": {"format": "WAV", "subtype": "G721_32"},
    "nms.wav": {"format": "WAV", "subtype": "NMS_ADPCM_32"},
    "a.au": {"format": "AU", "subtype": "G723_40"},
    "a.aiff": {"format": "AIFF", "subtype": "PCM_24"},
    "dwvw.aiff": {"format": "AIFF", "subtype": "DWVW_16"},
    "alac.caf": {"format": "CAF", "subtype": "ALAC_16"},
    "a.w64": {"format": "W64", "subtype": "PCM_16"},
    "a.sph": {"format": "NIST", "subtype": "PCM_16"},
    "a.flac": {"format": "FLAC", "subtype": "PCM_16"},
    "a.ogg": {"format": "OGG", "subtype": "VORBIS"},
    "a.opus": {"format": "OGG", "subtype": "OPUS"},
    "a.mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_part_of_a_file_in_any_format_equals_the_slice_of_the_whole(tmp_path: Path, name: str) -> None:
    rate = 8000 if name in ("gsm.wav", "g721.wav", "nms.wav") else RATE
    path = written(tmp_path / name, 2.0, rate, **FORMATS[name])
    whole = read_audio(path)
    assert whole.duration_s == pytest.approx(2.0, abs=0.05)
    assert duration_s(path) == pytest.approx(whole.duration_s, abs=1e-9)
    end_s = whole.duration_s
    for start_s, length_s in (
        (0, 0.1),
        (1.0003, 0.5),
        (end_s - 0.2, 0.1),
        (end_s - 0.2, None),
        (end_s - 0.01, 1),
    ):
        start = round(start_s * rate)
        stop = None if length_s is None else start + round(length_s * rate)
        part = read_audio(path, start_s=start_s, duration_s=length_s)
        assert np.array_equal(part.samples, whole.samples[:, start:stop]), (start_s, length_s)


@pytest.mark.parametrize("channels", [1, 2, 8, 9, 16, 64])
def test_ffmpeg_returns_channels_in_order(tmp_path: Path, channels: int) -> None:
    """A WAV file with a suffix that FFmpeg reads. Above eight channels, FFmpeg stores planes elsewhere."""
    samples = (
        np.random.default_rng(channels).integers(-32768, 32768, (channels, 3000)).astype(np.float32) / 32768
    )
    soundfile.write(tmp_path / "a.wav", samples.T, RATE, subtype="PCM_16")
    path = (tmp_path / "a.wav").rename(tmp_path / "a.m4a")
    assert np.array_equal(read_audio(path).samples, samples)
    assert np.array_equal(read_audio(path, start_s=0.01, duration_s=0.05).samples, samples[:, 160:960])


# lengths


def with_total(flac: bytes, samples: int) -> bytes:
    """The FLAC file with `samples` as the length in its header."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + samples.to_bytes(4, "big") + flac[26:]


def lying_flac(samples: int) -> Callable[[Path], bytes]:
    return lambda folder: with_total(written(folder / "a.flac", format="FLAC").read_bytes(), samples)


def twice(name: str, **options: str) -> Callable[[Path], bytes]:
    def make(folder: Path) -> bytes:
        first, second = (
            written(folder / f"1{name}", 1.75, **options),
            written(folder / f"2{name}", 1.25, **options),
        )
        return first.read_bytes() + second.read_bytes()

    return make


def silence_then_speech_mp3(folder: Path) -> bytes:
    """A variable bit rate MP3 file without Xing frame. The rate of its first frame gives a wrong length."""
    av = pytest.importorskip("av")
    samples = np.concatenate([np.zeros(RATE, np.float32), speech_like(2.0)])
    with av.open(str(folder / "x.mp3"), "w", format="mp3", options={"write_xing": "0"}) as output:
        stream = output.add_stream(
            "libmp3lame", rate=RATE, layout="mono", options={"q": "5", "compression_level": "9"}
        )
        stream.codec_context.options = {"q": "5"}
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        for part in (frame, None):
            for packet in stream.encode(part):
                output.mux(packet)
    return (folder / "x.mp3").read_bytes()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("unknown.flac", lying_flac(0)),
        ("short.flac", lying_flac(16000)),
        ("long.flac", lying_flac(2**32 - 1)),
        ("twice.flac", twice(".flac", format="FLAC")),
        ("chained.ogg", twice(".ogg", format="OGG", subtype="VORBIS")),
        ("chained.opus", twice(".opus", format="OGG", subtype="OPUS")),
        ("twice.mp3", twice(".mp3", format="MP3")),
        ("vbr.mp3", silence_then_speech_mp3),
    ],
)
def test_the_length_of_the_data_counts_not_the_length_in_the_header(
    tmp_path: Path, name: str, make: Callable[[Path], bytes]
) -> None:
    path = tmp_path / name
    path.write_bytes(make(tmp_path))
    audio = read_audio(path)
    # at a seam of MP3 files, FFmpeg returns frames that separate decoders would drop
    assert audio.duration_s == pytest.approx(3.0, abs=0.2 if name.endswith(".mp3") else 0.001)
    assert duration_s(path) == pytest.approx(audio.duration_s, abs=1e-6)
    start = round(2.5 * audio.sample_rate)
    part = read_audio(path, start_s=2.5, duration_s=0.25)
    assert np.array_equal(part.samples, audio.samples[:, start : start + round(0.25 * audio.sample_rate)])


@pytest.mark.parametrize("form", ["FLAC", "OGG"])
def test_concatenated_files_are_read_to_the_end(tmp_path: Path, form: str) -> None:
    path = written(tmp_path / f"a.{form.lower()}", 1.0, format=form)
    path.write_bytes(2 * path.read_bytes())
    assert read_audio(path).duration_s == pytest.approx(2.0, abs=0.01)
    assert duration_s(path) == pytest.approx(2.0, abs=0.01)


def ogg_checksum(page: bytes) -> int:
    found = 0
    for byte in page:
        found ^= byte << 24
        for _ in range(8):
            found = (found << 1 ^ 0x104C11DB7 if found & 0x80000000 else found << 1) & 0xFFFFFFFF
    return found


def test_a_false_length_in_the_last_ogg_page_is_ignored(tmp_path: Path) -> None:
    ogg = bytearray(written(tmp_path / "a.ogg", 1.0, format="OGG", subtype="VORBIS").read_bytes())
    at = ogg.rindex(b"OggS")
    ogg[at + 6 : at + 14] = (2**50).to_bytes(8, "little")
    ogg[at + 22 : at + 26] = bytes(4)
    ogg[at + 22 : at + 26] = ogg_checksum(ogg[at:]).to_bytes(4, "little")
    (tmp_path / "a.ogg").write_bytes(ogg)
    assert duration_s(tmp_path / "a.ogg") == pytest.approx(1.0, abs=0.1)
    assert read_audio(tmp_path / "a.ogg").duration_s == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("begin", [b"fLaC\x00\x00\x00\x22", b"OggS\x00\x02" + bytes(22)])
def test_files_with_too_many_stream_headers_raise_an_error(tmp_path: Path, begin: bytes) -> None:
    form = "FLAC" if begin.startswith(b"f") else "OGG"
    path = written(tmp_path / f"a.{form.lower()}", 0.1, format=form)
    path.write_bytes(path.read_bytes() + 100_000 * begin)
    for read in (read_audio, duration_s):
        with pytest.raises(AudioError, match="more than 1000 concatenated files"):
            read(path)


def test_false_lengths_in_pcm_headers_are_ignored(tmp_path: Path) -> None:
    wav = bytearray(written(tmp_path / "a.wav", 1.0, format="WAV", subtype="PCM_16").read_bytes())
    at = wav.index(b"data") + 4
    for claim in (0xFFFFFFFF, 0x7FFFFFFF, 10**6):
        wav[at : at + 4] = claim.to_bytes(4, "little")
        (tmp_path / "b.wav").write_bytes(wav)
        assert read_audio(tmp_path / "b.wav").samples.shape == (1, RATE)
        assert duration_s(tmp_path / "b.wav") == 1.0


# bounds


def with_rate(folder: Path, rate: int) -> Path:
    wav = bytearray(written(folder / "a.wav", 0.5, format="WAV", subtype="PCM_16").read_bytes())
    wav[24:28] = rate.to_bytes(4, "little")
    (folder / "b.wav").write_bytes(wav)
    return folder / "b.wav"


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1])
def test_sample_rates_out_of_range_raise_an_error(tmp_path: Path, rate: int) -> None:
    for read in (read_audio, duration_s):
        with pytest.raises(AudioError, match=f"sample rate of {rate} Hz, but 1000 to 768000 Hz"):
            read(with_rate(tmp_path, rate))


@pytest.mark.parametrize("rate", [1000, 768_000])
def test_the_lowest_and_the_highest_rate_are_read(tmp_path: Path, rate: int) -> None:
    assert read_audio(with_rate(tmp_path, rate)).sample_rate == rate


def test_resampling_ratios_are_bounded() -> None:
    assert resample(np.zeros(100, np.float32), 1000, 768_000).size == 76_800
    with pytest.raises(AudioError, match="cannot resample from 1 Hz to 16000 Hz"):
        resample(np.zeros(100, np.float32), 1, 16000)


def test_more_than_64_channels_raise_an_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((100, 64)), RATE)
    assert read_audio(tmp_path / "a.wav").samples.shape == (64, 100)
    soundfile.write(tmp_path / "a.wav", np.zeros((100, 65)), RATE)
    with pytest.raises(AudioError, match="65 channels, but 1 to 64"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["a.flac", "a.mp3", "a.opus"])
def test_a_small_file_with_hours_of_silence_raises_an_error_before_it_fills_the_memory(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_BYTES", 4 * 20 * RATE)  # twenty seconds instead of an hour
    options = {key: value for key, value in FORMATS[name].items() if key == "format" or value == "OPUS"}
    with soundfile.SoundFile(tmp_path / name, "w", RATE, 1, **options) as file:
        for _ in range(30):
            file.write(np.zeros(RATE))
    with pytest.raises(AudioError, match=r"too long to read at once: more than 20 s .* in a manifest with"):
        read_audio(tmp_path / name)
    with pytest.raises(AudioError, match="too long to read at once: more than 10 s"):
        read_audio(tmp_path / name, longest_s=10)
    assert read_audio(tmp_path / name, start_s=25, duration_s=2).samples.shape == (1, 2 * RATE)
    assert duration_s(tmp_path / name) == pytest.approx(30, abs=0.1)


def test_at_most_one_hour_is_read_at_once(tmp_path: Path) -> None:
    with soundfile.SoundFile(tmp_path / "a.flac", "w", 1000, 1) as file:
        file.write(np.zeros(3_601_000, dtype=np.int16))
    assert (tmp_path / "a.flac").stat().st_size < 20_000
    assert duration_s(tmp_path / "a.flac") == 3601
    with pytest.raises(AudioError, match="more than 3600 s"):
        read_audio(tmp_path / "a.flac")
    assert read_audio(tmp_path / "a.flac", start_s=3600).duration_s == 1.0


# special files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.wav", "ffconcat version 1.0\nfile real.wav\n"),
        ("a.m4a", "ffconcat version 1.0\nfile real.wav\n"),
        ("a.mp3", "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nreal.wav\n#EXT-X-ENDLIST\n"),
        ("a.flac", "[playlist]\nFile1=real.wav\n"),
        ("a.ogg", '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>'),
        ("a.aac", ";FFMETADATA1\n[CHAPTER]\nSTART=0\nEND=1\n"),
    ],
)
def test_playlists_and_scripts_are_not_opened_as_audio(tmp_path: Path, name: str, content: str) -> None:
    written(tmp_path / "real.wav", 0.5)
    (tmp_path / name).write_text(content)
    for read in (read_audio, duration_s):
        with pytest.raises(AudioError, match="cannot be decoded as audio"):
            read(tmp_path / name)


def make_socket(path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    folder = os.getcwd()
    os.chdir(path.parent)  # the path of a socket has at most about 100 characters
    server.bind(path.name)
    os.chdir(folder)
    server.close()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (os.mkfifo, "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (make_socket, "not a regular file"),
        (lambda path: path.symlink_to(path), "cannot be opened"),
        (lambda path: path.symlink_to("nowhere"), "does not exist"),
    ],
    ids=["pipe", "device", "socket", "loop", "broken"],
)
@pytest.mark.parametrize("name", ["a.wav", "a.m4a", "a.g722", "a.sln"])
def test_special_files_raise_an_error_without_blocking(
    tmp_path: Path, name: str, make: Callable[[Path], None], why: str
) -> None:
    make(tmp_path / name)
    for read in (read_audio, duration_s):
        with pytest.raises(AudioError, match=why):
            read(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["a" * 300 + ".wav", "a\0b.wav", "a\ud800b.wav"], ids=["long", "nul", "surrogate"]
)
def test_impossible_file_names_give_a_one_line_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(AudioError, match=r"cannot be opened|does not exist") as caught:
        read_audio(tmp_path / name)
    str(caught.value).encode()


@pytest.mark.parametrize("suffix", [b".wav", b".flac", b".mp3", b".m4a"])
def test_a_name_that_is_not_utf8_is_read(tmp_path: Path, suffix: bytes) -> None:
    content = written(tmp_path / f"a{suffix.decode().replace('m4a', 'mp3')}", 0.5).read_bytes()
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9" + suffix))
    path.write_bytes(content)
    assert read_audio(path).duration_s == pytest.approx(0.5, abs=0.1)
    assert duration_s(path) == pytest.approx(0.5, abs=0.1)


# channels


def test_channels_that_cancel_out_raise_an_error() -> None:
    left, other = speech_like(1.0), 0.1 * np.random.default_rng(1).normal(0, 1, RATE).astype(np.float32)
    for ratio in (1.0, 0.9, 1.1):  # -0.9 times the left channel: the mean is 26 dB below it
        with pytest.raises(AudioError, match=r"a\.wav: its 2 channels cancel out"):
            to_mono(np.stack([left, -ratio * left]), "a.wav")
    for right in (left, other, np.zeros_like(left), -0.5 * left):
        assert np.array_equal(to_mono(np.stack([left, right])), (left + right) / 2)
    assert not to_mono(np.zeros((2, RATE), np.float32)).any()
    assert to_mono(np.stack([left[:100], -left[:100]])).size == 100  # too short for the check


# writing


@pytest.mark.parametrize(
    ("channels", "rate", "name"), [(9, 16000, "a.flac"), (1, 0, "a.wav"), (1, 10**6, "a.flac")]
)
def test_channels_or_rates_that_a_format_cannot_store_give_a_one_line_error(
    tmp_path: Path, channels: int, rate: int, name: str
) -> None:
    with pytest.raises(AudioError, match=f"{channels} channels at {rate} Hz cannot be written"):
        write_audio(tmp_path / name, np.zeros((channels, 100)), rate)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("limit", [0, 10, 5000, 31_998])
def test_a_file_that_cannot_be_written_completely_raises_os_error(
    tmp_path: Path, suffix: str, limit: int
) -> None:
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(0).uniform(-1, 1, RATE)  # 32,000 bytes
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_audio(tmp_path / f"a{suffix}", noise, RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())

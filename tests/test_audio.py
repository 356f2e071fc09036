"""Audio files: writing and reading, parts of files, durations, and errors of undecodable files."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codecvq.audio import (
    duration_s,
    find_audio_files,
    read_audio,
    resample,
    to_mono,
    write_audio,
)
from codecvq.errors import AudioError

RATE = 44100


def tone(seconds: float, rate: int = RATE, hz: float = 440.0, channels: int = 1) -> np.ndarray:
    """0.4 sin(2 pi hz n / rate), halved and negated in each further channel: [C, S]."""
    wave = 0.4 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    return np.stack([wave * (-0.5) ** c for c in range(channels)]).astype(np.float32)


def encode_with_av(path: Path, samples: np.ndarray, rate: int, codec: str, container: str) -> Path:
    """Write samples [C, S] to a file with FFmpeg, through PyAV."""
    import av

    layout = "mono" if len(samples) == 1 else "stereo"
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
        frame.sample_rate = rate
        convert = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate)
        for block in [*convert.resample(frame), *convert.resample(None), None]:
            output.mux(stream.encode(block))
    return path


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same second of stereo audio in every container, and as G.722. Tests must not change the files."""
    tmp_path = tmp_path_factory.mktemp("audio")
    samples = tone(1.0, channels=2)
    made = {}
    for suffix in ("wav", "flac", "mp3", "ogg"):
        made[suffix] = tmp_path / f"a.{suffix}"
        soundfile.write(made[suffix], samples.T, RATE)
    made["m4a"] = encode_with_av(tmp_path / "a.m4a", samples, RATE, "aac", "ipod")
    made["mka"] = encode_with_av(tmp_path / "a.mka", samples, RATE, "aac", "matroska")
    made["g722"] = encode_with_av(tmp_path / "a.g722", tone(1.0, 16000), 16000, "g722", "g722")
    return made


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize(("channels", "length"), [(1, 1), (1, 16001), (2, 7), (2, 4096)])
def test_16_bit_samples_are_unchanged_after_writing_and_reading(tmp_path, suffix, channels, length):
    integers = np.random.default_rng(length).integers(-32768, 32768, (channels, length))
    samples = integers.astype(np.float32) / 32768
    path = write_audio(tmp_path / f"x.{suffix}", samples, 24000)
    audio = read_audio(path)
    assert audio.sample_rate == 24000
    assert audio.samples.dtype == np.float32
    assert np.array_equal(audio.samples, samples)
    assert write_audio(tmp_path / f"y.{suffix}", audio.samples, 24000).read_bytes() == path.read_bytes()


def test_writing_clamps_samples_beyond_full_scale(tmp_path):
    path = write_audio(tmp_path / "x.wav", np.array([-3.0, -1.0, 0.5, 1.0, 7.0]), 8000)
    assert read_audio(path).samples.tolist() == [[-1.0, -1.0, 0.5, 32767 / 32768, 32767 / 32768]]


@pytest.mark.parametrize("kind", ["mp3", "ogg", "m4a", "mka", "g722"])
def test_compressed_files_decode_to_the_original_signal(files, kind):
    audio = read_audio(files[kind])
    rate, channels = (16000, 1) if kind == "g722" else (RATE, 2)
    assert audio.sample_rate == rate
    assert audio.samples.shape[0] == channels
    assert audio.duration_s == pytest.approx(1.0, abs=0.1)  # AAC adds frames at both ends
    middle = audio.samples[0, rate // 4 : rate // 4 + rate // 2]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.argmax() * 2 == pytest.approx(440, abs=4)  # bins are 2 Hz apart
    assert np.abs(middle).max() == pytest.approx(0.4, abs=0.05)
    if channels == 2:
        assert np.corrcoef(audio.samples[0], audio.samples[1])[0, 1] < -0.99


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg", "m4a", "mka", "g722"])
@pytest.mark.parametrize(("start_s", "length_s"), [(0.0, 0.1), (0.3333, 0.25), (0.9, None), (0.9, 5.0)])
def test_reading_a_part_equals_slicing_the_whole_file(files, kind, start_s, length_s):
    whole = read_audio(files[kind])
    part = read_audio(files[kind], start_s=start_s, duration_s=length_s)
    start = round(start_s * whole.sample_rate)
    end = None if length_s is None else start + round(length_s * whole.sample_rate)
    assert np.array_equal(part.samples, whole.samples[:, start:end])


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg", "g722"])
def test_the_duration_of_the_header_is_the_decoded_duration(files, kind):
    assert duration_s(files[kind]) == pytest.approx(read_audio(files[kind]).duration_s, abs=1e-9)


def test_the_duration_of_a_container_is_approximate(files):
    assert duration_s(files["m4a"]) == pytest.approx(1.0, abs=0.05)
    assert duration_s(files["mka"]) == pytest.approx(1.0, abs=0.06)


def test_a_stream_without_container_is_decoded_to_get_its_duration(tmp_path):
    path = encode_with_av(tmp_path / "a.aac", tone(1.0), RATE, "aac", "adts")
    assert duration_s(path) == read_audio(path).duration_s


def test_raw_asterisk_files_have_the_sample_rate_of_their_suffix(tmp_path):
    integers = np.array([0, 1, -32768, 32767, -5], dtype="<i2")
    (tmp_path / "a.sln16").write_bytes(integers.tobytes())
    audio = read_audio(tmp_path / "a.sln16")
    assert audio.sample_rate == 16000
    assert np.array_equal(audio.samples[0] * 32768, integers)
    assert duration_s(tmp_path / "a.sln16") == 5 / 16000


def make_text(path: Path) -> None:
    path.write_text("This is a text, whatever its name says.\n" * 20)


def make_silent_header(path: Path) -> None:
    soundfile.write(path, np.zeros((0, 1)), 16000)


def make_nan(path: Path) -> None:
    samples = np.zeros(16000, dtype=np.float32)
    samples[8000] = np.nan
    soundfile.write(path, samples, 16000, subtype="FLOAT")


def make_cut_off(path: Path) -> None:
    whole = path.with_name("whole.flac")
    soundfile.write(whole, np.random.default_rng(0).uniform(-1, 1, 16000), 16000)
    path.write_bytes(whole.read_bytes()[:9000])


@pytest.mark.parametrize(
    ("name", "make", "why"),
    [
        ("text.wav", make_text, "cannot be decoded as audio"),
        ("text.m4a", make_text, "cannot be decoded as audio"),
        ("empty.wav", lambda path: path.write_bytes(b""), "is empty (0 bytes)"),
        ("zero.wav", make_silent_header, "has no samples"),
        ("nan.wav", make_nan, "NaN or infinite samples, the first at 0.500 s"),
        ("cut.flac", make_cut_off, "cannot be decoded as audio"),
        ("folder.wav", lambda path: path.mkdir(), "is a folder"),
        ("missing.wav", lambda path: None, "does not exist"),
    ],
)
def test_undecodable_files_give_a_one_line_error_with_the_file_name(tmp_path, name, make, why):
    make(tmp_path / name)
    with pytest.raises(AudioError) as caught:
        read_audio(tmp_path / name)
    message = str(caught.value)
    assert str(tmp_path / name) in message
    assert why in message
    assert "\n" not in message


def test_an_empty_part_or_one_after_the_end_is_an_error(files):
    with pytest.raises(AudioError, match=r"no samples from 2 s on"):
        read_audio(files["wav"], start_s=2.0)
    with pytest.raises(AudioError, match=r"no samples from 2 s on"):
        read_audio(files["m4a"], start_s=2.0)
    with pytest.raises(AudioError, match=r"no samples from 1e\+308 s on"):
        read_audio(files["flac"], start_s=1e308)
    for start_s, length_s in ((-1.0, None), (0.0, 0.0), (float("nan"), None), (0.0, float("inf"))):
        with pytest.raises(AudioError, match="do not select a part"):
            read_audio(files["wav"], start_s=start_s, duration_s=length_s)


def test_an_unsupported_output_format_is_an_error_that_lists_formats(tmp_path):
    with pytest.raises(AudioError, match=r"written as \.wav or \.flac"):
        write_audio(tmp_path / "x.mp3", np.zeros(8), 8000)
    with pytest.raises(AudioError, match="NaN"):
        write_audio(tmp_path / "x.wav", np.array([0.0, np.nan]), 8000)
    with pytest.raises(AudioError, match=r"\(1, 1, 8\)"):
        write_audio(tmp_path / "x.wav", np.zeros((1, 1, 8)), 8000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [0, 1, 2, 3, 441, 1000, 4097])
@pytest.mark.parametrize(
    ("source", "target"), [(44100, 16000), (16000, 24000), (48000, 16000), (8000, 44100)]
)
def test_resampling_gives_the_length_rounded_up(length, source, target):
    assert resample(np.zeros(length, np.float32), source, target).shape == (
        math.ceil(length * target / source),
    )
    assert resample(np.zeros((2, 3, length), np.float32), source, target).shape[:2] == (2, 3)


@pytest.mark.parametrize(("source", "target"), [(44100, 16000), (16000, 24000), (48000, 16000)])
def test_resampling_preserves_a_sine(source, target):
    resampled = resample(tone(0.5, source, 1000.0), source, target)
    expected = tone(0.5, target, 1000.0)
    inside = slice(target // 20, -target // 20)  # the ends depend on the silence around the signal
    assert np.abs(resampled[:, inside] - expected[:, : resampled.shape[1]][:, inside]).max() < 1e-4


def test_resampling_treats_channels_alike_and_removes_frequencies_above_the_new_nyquist():
    rows = np.concatenate([tone(0.2, 48000, 1000.0), tone(0.2, 48000, 11000.0)])
    both = resample(rows, 48000, 16000)
    assert np.allclose(both[0], resample(rows[0], 48000, 16000), atol=1e-6)
    assert np.abs(both[1, 320:-320]).max() < 1e-4  # 11 kHz is above 8 kHz: removed, without aliasing
    assert resample(rows, 48000, 48000) is rows
    with pytest.raises(AudioError, match="above 0"):
        resample(rows, 48000, 0)


def test_mono_is_the_mean():
    assert to_mono(np.array([[1.0, 0.0], [0.0, 0.5]], np.float32)).tolist() == [0.5, 0.25]
    assert to_mono(np.array([[1.0, 0.0]], np.float32)).tolist() == [1.0, 0.0]
    assert to_mono(np.array([1.0, 0.0], np.float32)).tolist() == [1.0, 0.0]


def test_finding_audio_files_is_recursive_sorted_and_follows_links_once(tmp_path):
    for name in (
        "b/2.FLAC",
        "b/1.wav",
        "a.mp3",
        "notes.txt",
        ".hidden.wav",
        ".cache/x.wav",
        "c/deep/er.g722",
    ):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far.ogg").touch()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root")
    names = [path.relative_to(tmp_path / "root").as_posix() for path in find_audio_files(tmp_path / "root")]
    assert names == ["a.mp3", "b/1.wav", "b/2.FLAC", "c/deep/er.g722", "link/far.ogg"]
    with pytest.raises(AudioError, match="missing"):
        find_audio_files(tmp_path / "nowhere")


def test_an_unreadable_folder_gives_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.wav").touch()
    scan = os.scandir

    def refuse(path):
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with caplog.at_level(logging.WARNING):
        assert find_audio_files(tmp_path) == [tmp_path / "a.wav"]
    assert f"{tmp_path}/closed cannot be read (Permission denied)" in caplog.text

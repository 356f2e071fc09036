"""Audio files to .cvq files and back: exact codes, lengths, channels and rates, parts, and damage."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from small_codecs import RATE, LevelCodec
from test_cvq_vectors import FOLDER, codec_of
from test_recordings import FramewiseCodec, network_codec, surveyed_codec

from codecvq.audio import read_audio, resample
from codecvq.bitstream import decode_file, encode_file, read_cvq
from codecvq.errors import AudioError, BitstreamError, StreamingError

STEP = 1 / 32768  # of 16-bit samples
CODECS = {
    "stream": FramewiseCodec,
    "whole": LevelCodec,
    "stereo": lambda: FramewiseCodec(channels=2),
    "network": network_codec,
    "surveyed": surveyed_codec,
}


@cache
def wave(samples: int, channels: int) -> np.ndarray:
    """Noise that differs between channels, with a slow envelope: [C, S]."""
    noise = np.random.default_rng(samples).uniform(-0.3, 0.3, (channels, samples))
    envelope = 0.6 + 0.4 * np.sin(np.arange(samples) / 3000)
    return (noise * envelope).astype(np.float32)


def recorded(folder: Path, samples: int, rate: int = RATE, channels: int = 1, suffix: str = ".wav") -> Path:
    path = folder / f"in{suffix}"
    soundfile.write(path, wave(samples, channels).T, rate, subtype="PCM_16")
    return path


def whole_codes(codec: LevelCodec, path: Path, mono: bool = False) -> np.ndarray:
    """Codes [B, N, T] of the whole recording: the reference."""
    audio = read_audio(path)
    samples = audio.samples.mean(axis=0, keepdims=True) if mono else audio.samples
    samples = resample(samples, audio.sample_rate, codec.sample_rate)
    missing = -len(samples) % codec.channels
    samples = np.concatenate([samples, np.repeat(samples[-1:], missing, axis=0)])
    return codec.encode(torch.from_numpy(samples).reshape(-1, codec.channels, samples.shape[1])).numpy()


def whole_audio(codec: LevelCodec, codes: np.ndarray, like: Path, codec_rate: bool = False) -> np.ndarray:
    """Decoded audio of the whole recording, with the length, channels and rate of `like`: the reference."""
    audio = read_audio(like)
    channels, length = audio.samples.shape
    coded = -(-length * codec.sample_rate // audio.sample_rate)
    decoded = codec.decode(torch.from_numpy(codes), num_samples=coded).numpy()
    decoded = decoded.reshape(-1, coded)[:channels]
    return decoded if codec_rate else resample(decoded, codec.sample_rate, audio.sample_rate)[:, :length]


def check_equal(audio: np.ndarray, expected: np.ndarray, tolerance: float = STEP) -> None:
    assert audio.shape == expected.shape
    assert np.abs(audio - np.clip(expected, -1, 1 - STEP)).max(initial=0.0) <= tolerance


@pytest.mark.parametrize(
    ("rate", "channels", "samples", "name"),
    [
        *((8000, 1, 20_001, name) for name in CODECS),
        *((44100, 6, 50_001, name) for name in ("stream", "whole", "stereo", "network")),
        *((16000, 2, 20_443, name) for name in ("stereo", "surveyed")),
        (22050, 1, 30_007, "network"),
        (48000, 2, 48_000, "network"),
    ],
)
def test_a_file_has_the_codes_of_the_whole_and_decodes_to_its_length_channels_and_rate(
    tmp_path: Path, rate: int, channels: int, samples: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codecvq.audio.reading.MAX_BLOCK_BYTES", 4 * channels * 7001)  # several blocks
    codec, source = CODECS[name](), recorded(tmp_path, samples, rate, channels)
    encoded = encode_file(codec, source, tmp_path / "a.cvq", chunk_s=0.3)
    assert (encoded.num_samples, encoded.sample_rate, encoded.channels) == (samples, rate, channels)
    assert encoded.num_bytes == (tmp_path / "a.cvq").stat().st_size
    codes = whole_codes(codec, source)
    packet = read_cvq(tmp_path / "a.cvq", codec)
    assert np.array_equal(packet.codes.reshape(codes.shape), codes)
    decoded = decode_file(codec, tmp_path / "a.cvq", tmp_path / "out.wav")
    assert (decoded.num_samples, decoded.sample_rate, decoded.channels) == (samples, rate, channels)
    audio = read_audio(tmp_path / "out.wav")
    assert audio.sample_rate == rate
    check_equal(audio.samples, whole_audio(codec, codes, source))


@pytest.mark.parametrize("samples", [1, 2, 159, 160, 161, 1600, 4801])
@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_any_length_returns(tmp_path: Path, samples: int, suffix: str) -> None:
    codec, source = FramewiseCodec(), recorded(tmp_path, samples, 44100, 2, suffix)
    encode_file(codec, source, tmp_path / "a.cvq")
    decode_file(codec, tmp_path / "a.cvq", tmp_path / f"out{suffix}")
    assert soundfile.info(tmp_path / f"out{suffix}").frames == samples


def test_channels_are_mixed_down_on_request(tmp_path: Path) -> None:
    codec, source = FramewiseCodec(), recorded(tmp_path, 30_000, 44100, 6)
    encode_file(codec, source, tmp_path / "a.cvq", mono=True)
    assert np.array_equal(read_cvq(tmp_path / "a.cvq", codec).codes, whole_codes(codec, source, mono=True)[0])
    assert decode_file(codec, tmp_path / "a.cvq", tmp_path / "out.wav").channels == 1


def test_the_rate_of_the_codec_is_kept_on_request(tmp_path: Path) -> None:
    codec, source = FramewiseCodec(), recorded(tmp_path, 30_001, 44100, 2)
    encode_file(codec, source, tmp_path / "a.cvq")
    decoded = decode_file(codec, tmp_path / "a.cvq", tmp_path / "out.wav", codec_rate=True)
    assert decoded.sample_rate == RATE
    expected = whole_audio(codec, whole_codes(codec, source), source, codec_rate=True)
    check_equal(read_audio(tmp_path / "out.wav").samples, expected)


@pytest.mark.parametrize(
    ("rate", "name"),
    [
        *((rate, "stream") for rate in (8000, 16000, 22050, 44100, 48000)),
        *((44100, name) for name in ("whole", "stereo", "network")),
        (8000, "surveyed"),
    ],
)
def test_a_part_equals_that_of_the_whole(tmp_path: Path, rate: int, name: str) -> None:
    """The surveyed codec has a running phase, so its part has the same length but not the same samples."""
    codec, source = CODECS[name](), recorded(tmp_path, 6 * rate + 77, rate, 2)
    encode_file(codec, source, tmp_path / "a.cvq", chunk_s=0.5)
    decode_file(codec, tmp_path / "a.cvq", tmp_path / "whole.wav")
    whole = read_audio(tmp_path / "whole.wav").samples
    for start_s, end_s in ((0.0, 0.7), (0.001, 0.002), (4.3, 4.90001), (5.5, None), (5.999, 100.0)):
        decoded = decode_file(
            codec, tmp_path / "a.cvq", tmp_path / "part.wav", start_s=start_s, end_s=end_s
        )  # fmt: skip
        part = read_audio(tmp_path / "part.wav").samples
        end = None if end_s is None else round(end_s * rate)
        expected = whole[:, round(start_s * rate) : end]
        assert decoded.num_samples == part.shape[1]
        check_equal(part, expected, 2.0 if name == "surveyed" else 2 * STEP)


def test_a_part_does_not_read_the_chunks_before_it(tmp_path: Path) -> None:
    codec, source = FramewiseCodec(), recorded(tmp_path, 10 * RATE)
    encode_file(codec, source, tmp_path / "a.cvq")
    content = bytearray((tmp_path / "a.cvq").read_bytes())
    content[200] ^= 0xFF  # in the first chunks
    (tmp_path / "a.cvq").write_bytes(content)
    decode_file(codec, tmp_path / "a.cvq", tmp_path / "part.wav", start_s=6.0, end_s=7.0)
    check_equal(
        read_audio(tmp_path / "part.wav").samples,
        whole_audio(codec, whole_codes(codec, source), source)[:, 6 * RATE : 7 * RATE],
    )


@pytest.mark.parametrize(
    ("start_s", "end_s"), [(10.0, None), (1e9, 2e9), (-1.0, None), (2.0, 1.0), (0.0, 0.0)]
)
def test_empty_parts_raise(tmp_path: Path, start_s: float, end_s: float | None) -> None:
    codec = FramewiseCodec()
    encode_file(codec, recorded(tmp_path, 2 * RATE), tmp_path / "a.cvq")
    with pytest.raises(BitstreamError, match=r"ends before|is not a part"):
        decode_file(codec, tmp_path / "a.cvq", tmp_path / "part.wav", start_s=start_s, end_s=end_s)
    assert not (tmp_path / "part.wav").exists()


@pytest.mark.parametrize("name", ["stream", "whole"])
def test_damage_raises_and_salvage_returns_the_rest_in_its_place(tmp_path: Path, name: str) -> None:
    codec, source = CODECS[name](), recorded(tmp_path, 10 * 44100, 44100)
    encode_file(codec, source, tmp_path / "a.cvq")
    whole = whole_audio(codec, whole_codes(codec, source), source)
    content = bytearray((tmp_path / "a.cvq").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "b.cvq").write_bytes(content)
    with pytest.raises(BitstreamError, match=r"b\.cvq: chunk \d+ \(at .* s, byte \d+\): .* Salvage"):
        decode_file(codec, tmp_path / "b.cvq", tmp_path / "out.wav")
    assert not (tmp_path / "out.wav").exists()
    decoded = decode_file(codec, tmp_path / "b.cvq", tmp_path / "out.wav", salvage=True)
    (gap,) = decoded.gaps
    audio = read_audio(tmp_path / "out.wav").samples
    assert audio.shape == whole.shape
    start, end = round(gap.start_s * 44100), round(gap.end_s * 44100)
    margin = 2205  # of the resampling filter
    check_equal(audio[:, : start - margin], whole[:, : start - margin])
    check_equal(audio[:, end + margin :], whole[:, end + margin :])
    assert not audio[:, start + margin : end - margin].any()


def test_salvage_of_a_truncated_file_returns_its_beginning(tmp_path: Path) -> None:
    codec, source = FramewiseCodec(), recorded(tmp_path, 10 * RATE)
    encode_file(codec, source, tmp_path / "a.cvq")
    content = (tmp_path / "a.cvq").read_bytes()
    (tmp_path / "b.cvq").write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(BitstreamError, match="Salvage reads what is whole"):
        decode_file(codec, tmp_path / "b.cvq", tmp_path / "out.wav")
    decoded = decode_file(codec, tmp_path / "b.cvq", tmp_path / "out.wav", salvage=True)
    assert 3 * RATE <= decoded.num_samples < 7 * RATE
    expected = whole_audio(codec, whole_codes(codec, source), source)[:, : decoded.num_samples]
    check_equal(read_audio(tmp_path / "out.wav").samples, expected)
    assert str(decoded.gaps[-1]).endswith("s to the end")


def test_a_failure_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = wave(5 * RATE, 1).copy()
    samples[0, -5] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples.T, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN or infinite"):
        encode_file(FramewiseCodec(), tmp_path / "nan.wav", tmp_path / "out" / "a.cvq")
    monkeypatch.setattr("codecvq.codec.recordings.MAX_AUDIO_S", 1.0)
    with pytest.raises(StreamingError, match="must process it as a whole"):
        encode_file(LevelCodec(), recorded(tmp_path, 2 * RATE), tmp_path / "out" / "a.cvq")
    encode_file(FramewiseCodec(), tmp_path / "in.wav", tmp_path / "a.cvq")
    with pytest.raises(StreamingError, match="must process it as a whole"):
        decode_file(LevelCodec(), tmp_path / "a.cvq", tmp_path / "out" / "a.wav")
    assert not list((tmp_path / "out").iterdir())


def test_files_of_earlier_formats_are_decoded(tmp_path: Path) -> None:
    """Versions 1 and 2 have neither channels nor an original rate: those of the codec count."""
    for name in ("v1-entropy", "v2-strides", "v1-no-frames"):
        facts = json.loads((FOLDER / f"{name}.json").read_text())
        codec = codec_of(facts)
        decoded = decode_file(codec, FOLDER / f"{name}.cvq", tmp_path / "out.wav")
        assert (decoded.sample_rate, decoded.channels) == (facts["sample_rate"], 1)
        assert decoded.num_samples == facts["num_samples"]
        expected = codec.decode(
            torch.tensor(facts["codes"], dtype=torch.int64)[None], num_samples=facts["num_samples"]
        )
        check_equal(
            soundfile.read(tmp_path / "out.wav", dtype="float32", always_2d=True)[0].T, expected[0].numpy()
        )

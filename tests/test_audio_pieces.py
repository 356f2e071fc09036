"""Audio in pieces: blocks of files, resampling, mixing and writing give the samples of the whole."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from codecvq.audio import (
    Audio,
    MonoMixer,
    Resampler,
    audio_file,
    cut_at_silences,
    limits,
    read_audio,
    read_blocks,
    resample,
    to_mono,
    write_audio,
    writing,
)
from codecvq.data import Clip
from codecvq.errors import AudioError

RATES = [8000, 16000, 22050, 44100, 48000]


def noise(samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Uniform noise of amplitude 0.9: [C, S]."""
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (channels, samples)).astype(np.float32)


def cut(samples: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    """The samples in pieces: of the given sizes, then the rest."""
    ends = [0, *np.minimum(np.cumsum(sizes), samples.shape[1]).tolist(), samples.shape[1]]
    return (samples[:, start:end] for start, end in itertools.pairwise(ends))


partitions = st.lists(st.integers(0, 3000), max_size=12)


# reading

FILES = {
    "a.wav": {"format": "WAV", "subtype": "PCM_16"},
    "float.wav": {"format": "WAV", "subtype": "FLOAT"},
    "a.flac": {"format": "FLAC"},
    "a.ogg": {"format": "OGG", "subtype": "VORBIS"},
    "a.opus": {"format": "OGG", "subtype": "OPUS"},
    "a.mp3": {"format": "MP3"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pieces")
    for name, options in FILES.items():
        with soundfile.SoundFile(folder / name, "w", 16000, 2, **options) as file:
            file.write(noise(150_001, 2).T)
    for suffix in (".ogg", ".flac"):
        (folder / f"chained{suffix}").write_bytes(2 * (folder / f"a{suffix}").read_bytes())
    (folder / "a.m4a").write_bytes((folder / "a.wav").read_bytes())
    return folder


@pytest.mark.parametrize("name", [*FILES, "chained.ogg", "chained.flac", "a.m4a"])
@pytest.mark.parametrize("block_s", [0.05, 3.0, 100.0])
def test_blocks_are_the_whole_file(folder: Path, name: str, block_s: float) -> None:
    for part in ({}, {"start_s": 0.3333}, {"start_s": 5.0, "duration_s": 1.2345}):
        whole = read_audio(folder / name, **part)
        blocks = list(read_blocks(folder / name, block_s=block_s, **part))
        assert np.array_equal(np.concatenate([block.samples for block in blocks], axis=1), whole.samples)
        assert {block.sample_rate for block in blocks} == {whole.sample_rate}
        sizes = [block.samples.shape[1] for block in blocks]
        assert set(sizes[:-1]) <= {round(block_s * 16000)}
        assert 0 < sizes[-1] <= round(block_s * 16000)


def test_links_are_found_at_any_offset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signature may lie across two of the pieces in which a file is searched."""
    from codecvq.audio import links

    for form, suffix in (("FLAC", "flac"), ("OGG", "ogg")):
        path = tmp_path / f"a.{suffix}"
        soundfile.write(path, noise(100)[0], 16000, format=form)
        size = path.stat().st_size
        path.write_bytes(3 * path.read_bytes())
        for at_once in range(1, 40):
            monkeypatch.setattr(links, "SCANNED_AT_ONCE", at_once)
            expected = [(0, size), (size, 2 * size), (2 * size, 3 * size)]
            assert links.find_links(path, form) == expected


def test_blocks_of_many_channels_are_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = noise(4001, 64)
    soundfile.write(tmp_path / "a.wav", samples.T, 48000, subtype="FLOAT")
    monkeypatch.setattr("codecvq.audio.reading.MAX_BLOCK_BYTES", 4 * 64 * 1000)
    blocks = [block.samples for block in read_blocks(tmp_path / "a.wav")]
    assert [block.shape[1] for block in blocks] == [1000] * 4 + [1]
    assert np.array_equal(np.concatenate(blocks, axis=1), samples)


def test_a_recording_that_is_too_long_to_read_at_once_is_read_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_BYTES", 4 * 16000)
    path = write_audio(tmp_path / "a.flac", noise(40_000), 16000)
    with pytest.raises(AudioError, match="too long to read at once"):
        read_audio(path)
    assert [block.samples.shape[1] for block in read_blocks(path, block_s=1)] == [16000, 16000, 8000]


def test_the_length_of_a_recording_in_blocks_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_DECODED_S", 2.0)
    for name in ("a.flac", "a.mp3", "a.ogg"):
        soundfile.write(tmp_path / name, np.zeros(48_000), 16000)
        with pytest.raises(AudioError, match=r"is longer than .* hours"):
            list(read_blocks(tmp_path / name))


def test_damage_is_an_error_when_the_blocks_reach_it(tmp_path: Path) -> None:
    samples = noise(160_000)
    samples[0, 120_000] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples.T, 16000, subtype="FLOAT")
    blocks = read_blocks(tmp_path / "nan.wav", block_s=0.5)
    assert np.array_equal(next(blocks).samples, samples[:, :8000])
    with pytest.raises(AudioError, match=r"NaN or infinite samples, the first at 7\.500 s"):
        list(blocks)

    content = write_audio(tmp_path / "a.flac", noise(160_000), 16000).read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[:200_000])
    with pytest.raises(AudioError, match="cannot be decoded as audio"):
        list(read_blocks(tmp_path / "cut.flac"))


def test_blocks_have_the_errors_of_the_whole(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "text.wav").write_text("not audio " * 50)
    (tmp_path / "empty.wav").write_bytes(b"")
    for path, part in (
        (tmp_path / "text.wav", {}),
        (tmp_path / "empty.wav", {}),
        (tmp_path / "missing.wav", {}),
        (folder / "a.wav", {"start_s": 20.0}),
        (folder / "a.mp3", {"start_s": 20.0}),
        (folder / "a.wav", {"start_s": -1.0}),
        (folder / "a.wav", {"duration_s": 0.0}),
    ):
        with pytest.raises(AudioError) as whole:
            read_audio(path, **part)
        with pytest.raises(AudioError) as pieces:
            list(read_blocks(path, **part))
        assert str(pieces.value) == str(whole.value)
    with pytest.raises(AudioError, match="block_s is 0"):
        list(read_blocks(folder / "a.wav", block_s=0))


# resampling


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(RATES), st.sampled_from(RATES), st.sampled_from([1, 2, 6]), partitions)
def test_resampling_in_pieces_equals_resampling_the_whole(
    source: int, target: int, channels: int, sizes: list[int]
) -> None:
    resampler = Resampler(source, target, channels)
    for seed, length in enumerate((10_007, 0, 1, 4003)):  # one resampler for several recordings
        samples = noise(length, channels, seed)
        pieces = [*map(resampler.push, cut(samples, sizes)), resampler.flush()]
        assert np.array_equal(np.concatenate(pieces, axis=1), resample(samples, source, target))


def test_resampling_returns_samples_before_the_end() -> None:
    """The delay is bounded, so the memory is too."""
    resampler = Resampler(44100, 16000)
    returned = sum(resampler.push(noise(4410)).shape[1] for _ in range(20))
    assert returned > 2.0 * 16000 - 1600


def test_resampling_equals_soxr_of_the_whole() -> None:
    """An independent reference: one call of soxr, with silence appended."""
    import soxr

    for source, target in itertools.permutations(RATES, 2):
        samples = noise(70_001)[0]
        padded = np.pad(samples, (0, source // target + 2))
        expected = soxr.resample(padded, source, target, quality="VHQ")[: -(-70_001 * target // source)]
        assert np.array_equal(resample(samples, source, target), expected)


# mixing


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([1, 2, 6, 9, 64]), partitions)
def test_mixing_in_pieces_equals_mixing_the_whole(channels: int, sizes: list[int]) -> None:
    samples = noise(5003, channels)
    mixer = MonoMixer()
    mixed = np.concatenate([mixer.push(piece) for piece in cut(samples, sizes)])
    mixer.flush()
    assert np.array_equal(mixed, to_mono(samples))
    assert np.array_equal(mixed, samples.mean(axis=0))


def test_channels_that_cancel_out_are_an_error_at_the_end() -> None:
    """Half a second may have opposite phase by chance; the whole recording counts."""
    opposite = np.concatenate([noise(8000), -noise(8000)])
    mixer = MonoMixer("a.wav")
    mixer.push(opposite)
    mixer.push(np.repeat(noise(8000), 2, axis=0))
    mixer.flush()
    for _ in range(10):
        mixer.push(opposite[:, :800])
    with pytest.raises(AudioError, match=r"a\.wav: its 2 channels cancel out"):
        mixer.flush()


# writing


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([".wav", ".flac"]), st.sampled_from([1, 2, 6]), partitions)
def test_writing_in_pieces_equals_writing_the_whole(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, channels: int, sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("written")
    samples = noise(7001, channels)
    with audio_file(folder / f"pieces{suffix}", 22050, channels) as file:
        for piece in cut(samples, sizes):
            file.write(piece)
    whole = write_audio(folder / f"whole{suffix}", samples, 22050)
    assert np.array_equal(read_audio(folder / f"pieces{suffix}").samples, read_audio(whole).samples)
    info = soundfile.info(folder / f"pieces{suffix}")
    assert (info.frames, info.channels, info.samplerate, info.subtype) == (7001, channels, 22050, "PCM_16")


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"before")
    with audio_file(path, 16000) as file:
        file.write(noise(100))
        assert path.read_bytes() == b"before"
    assert soundfile.info(path).frames == 100


@pytest.mark.parametrize(
    ("bad", "why"), [(noise(10, 2), r"\[1, n\] is needed"), (np.full((1, 5), np.nan), "NaN or infinite")]
)
def test_a_failure_leaves_no_file(tmp_path: Path, bad: np.ndarray, why: str) -> None:
    def write() -> None:
        with audio_file(tmp_path / "a.flac", 16000) as file:
            file.write(noise(50_000))
            file.write(bad)

    with pytest.raises(AudioError, match=why):
        write()
    assert not list(tmp_path.iterdir())


def test_a_wav_file_above_its_limit_is_rf64_if_the_length_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "MAX_WAV_BYTES", 10_000)
    samples = noise(5001)
    assert soundfile.info(write_audio(tmp_path / "a.wav", samples, 16000)).format == "RF64"
    assert read_audio(tmp_path / "a.wav").samples.shape == (1, 5001)
    with (
        pytest.raises(AudioError, match=r"exceeds the .* of a WAV file\. Write a \.flac file"),
        audio_file(tmp_path / "b.wav", 16000) as file,
    ):
        file.write(samples)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_an_empty_recording_is_written(tmp_path: Path) -> None:
    assert soundfile.info(write_audio(tmp_path / "a.wav", np.zeros((2, 0)), 16000)).frames == 0


# clips

CLIPS = {
    "whole": {},
    "part": {"start_s": 1.5, "duration_s": 2.25},
    "channel": {"channel": 1, "start_s": 0.3},
    "end": {"start_s": 3.0, "duration_s": 100.0, "open_end": True},
}


@pytest.mark.parametrize("part", CLIPS)
@pytest.mark.parametrize("rate", [8000, 16000, 22050])
def test_the_blocks_of_a_clip_are_its_samples(
    folder: Path, part: str, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codecvq.audio.reading.MAX_BLOCK_BYTES", 8 * 5000)
    clip = Clip(id="a", path=folder / "a.flac", **CLIPS[part])
    blocks = list(clip.read_blocks(rate))
    assert len(blocks) > 3
    assert np.array_equal(np.concatenate(blocks), clip.read(rate))


def test_the_blocks_of_a_clip_have_the_errors_of_its_samples(tmp_path: Path, folder: Path) -> None:
    opposite = noise(20_000)
    soundfile.write(tmp_path / "opposite.wav", np.concatenate([opposite, -opposite]).T, 16000)
    for path, part in (
        (tmp_path / "opposite.wav", {}),
        (tmp_path / "missing.wav", {}),
        (folder / "a.wav", {"channel": 2}),
        (folder / "a.wav", {"start_s": 5.0, "duration_s": 60.0}),
    ):
        clip = Clip(id="a", path=path, **part)
        with pytest.raises(AudioError) as whole:
            clip.read(16000)
        with pytest.raises(AudioError) as pieces:
            list(clip.read_blocks(16000))
        assert str(pieces.value) == str(whole.value)


def test_a_source_without_blocks_is_read_as_one_block(folder: Path) -> None:
    @dataclass(frozen=True)
    class Source:
        path: Path

        def read(self, **part: float) -> Audio:
            return read_audio(self.path, **part)

    clip = Clip(id="a", path=folder / "a.wav", source=Source(folder / "a.wav"), start_s=0.5)
    assert np.array_equal(np.concatenate(list(clip.read_blocks(8000))), clip.read(8000))


# cutting


@settings(max_examples=25, deadline=None)
@given(partitions, st.integers(1, 4000), st.integers(0, 9000))
def test_pieces_are_bounded_and_lose_nothing(sizes: list[int], longest: int, length: int) -> None:
    samples = noise(length)
    blocks = [piece[0] for piece in cut(samples, sizes)]
    pieces = list(cut_at_silences(blocks, 1000, longest / 1000))
    assert np.array_equal(np.concatenate([*pieces, samples[0, :0]]), samples[0])
    assert all(0 < piece.size <= longest for piece in pieces)
    assert all(piece.size >= longest // 2 for piece in pieces[:-1])
    again = list(cut_at_silences([samples[0]], 1000, longest / 1000))
    assert [piece.size for piece in again] == [piece.size for piece in pieces]


def test_cuts_are_in_silences() -> None:
    """Pauses of 0.3 s, each in the second half of its piece."""
    samples = noise(30 * 8000)[0]
    for start_s in (7.0, 16.0, 24.5):
        samples[round(start_s * 8000) : round((start_s + 0.3) * 8000)] *= 0.01
    pieces = list(cut_at_silences([samples], 8000, 10.0))
    ends = np.cumsum([piece.size for piece in pieces]) / 8000
    assert len(ends) == 4
    for end_s, start_s in zip(ends, (7.0, 16.0, 24.5), strict=False):
        assert start_s < end_s < start_s + 0.3


def test_silence_alone_is_cut_near_the_limit() -> None:
    pieces = list(cut_at_silences([np.zeros(50_000, np.float32)], 1000, 20.0))
    assert [piece.size for piece in pieces] == [19_950, 19_950, 10_100]


# memory

MEMORY = """
import resource, sys
from codecvq.audio import MonoMixer, Resampler, audio_file, read_blocks
source, target = sys.argv[1:]
mixer, resampler = MonoMixer(), Resampler(44100, 16000)
peaks = []
with audio_file(target, 16000) as file:
    for number, block in enumerate(read_blocks(source)):
        file.write(resampler.push(mixer.push(block.samples)[None]))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    file.write(resampler.flush())
print(len(peaks), peaks[2], peaks[-1])
"""


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".mp3"])
@pytest.mark.slow
def test_the_memory_does_not_grow_with_the_length(tmp_path: Path, suffix: str) -> None:
    """Half an hour of stereo at 44.1 kHz takes 635 MB as float32."""
    pytest.importorskip("resource")
    source = tmp_path / f"a{suffix}"
    with soundfile.SoundFile(source, "w", 44100, 2) as file:
        for seed in range(180):
            file.write(noise(441_000, 2, seed).T)
    command = [sys.executable, "-c", MEMORY, str(source), str(tmp_path / "b.wav")]
    blocks, early_kb, late_kb = map(int, subprocess.check_output(command, text=True).split())
    assert blocks >= 180
    assert late_kb - early_kb < 30_000

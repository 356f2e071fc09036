"""Silent frames: which they are, files without them, and comfort noise in their place."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from small_codecs import HOP, RATE, LevelCodec
from test_recordings import FramewiseCodec, network_codec

from codecvq.audio import PcmReader
from codecvq.bitstream import decode_file, encode_file, encode_pipe, read_cvq
from codecvq.codec.silence import FADE_S, HANGOVER_S, HIGHEST_DB, ComfortNoise, SilenceDetector

HANGOVER, FADE = round(HANGOVER_S * RATE), round(FADE_S * RATE)
CODECS = {"stream": FramewiseCodec, "whole": LevelCodec, "network": network_codec}


def recording(
    pauses: float = 0.5, seconds: float = 8.0, channels: int = 1, background: float = 0.0
) -> np.ndarray:
    """Noise in alternation with pauses of a background: [C, S]. The last pause lasts to the end."""
    generator = np.random.default_rng(0)
    samples = generator.uniform(-0.3, 0.3, (channels, round(seconds * RATE)))
    period = samples.shape[1] // 4
    quiet = np.arange(samples.shape[1]) % period >= (1 - pauses) * period
    samples[:, quiet] = background * generator.uniform(-1, 1, (channels, int(quiet.sum())))
    return samples.astype(np.float32)


def written(path: Path, samples: np.ndarray) -> Path:
    soundfile.write(path, samples.T, RATE, subtype="PCM_16")
    return path


@pytest.mark.parametrize("name", CODECS)
def test_lengths_are_exact_and_other_frames_keep_their_codes(name: str, tmp_path: Path) -> None:
    codec = CODECS[name]()
    for samples in (recording(channels=2), recording(background=0.0005)[:, :-77], np.zeros((1, 40_000))):
        source = written(tmp_path / "a.wav", samples)
        encode_file(codec, source, tmp_path / "full.cvq")
        encode_file(codec, source, tmp_path / "a.cvq", silence_db=-60)
        full, skipped = (read_cvq(tmp_path / file, codec) for file in ("full.cvq", "a.cvq"))
        silent = np.atleast_2d(skipped.silent)
        codes = [file.codes.reshape(len(silent), -1, silent.shape[1]) for file in (full, skipped)]
        assert 0.2 < silent.mean() < 0.95
        for book in range(codes[0].shape[1]):
            assert np.array_equal(codes[0][:, book][~silent], codes[1][:, book][~silent])
        decode_file(codec, tmp_path / "a.cvq", tmp_path / "b.wav")
        decoded, rate = soundfile.read(tmp_path / "b.wav", always_2d=True)
        assert (decoded.shape, rate) == (samples.T.shape, RATE)


def test_silence_costs_next_to_nothing(tmp_path: Path) -> None:
    codec = FramewiseCodec()
    sizes = []
    for pauses in (0.0, 0.5):
        source = written(tmp_path / "a.wav", recording(pauses, 40.0))
        sizes.append(encode_file(codec, source, tmp_path / "a.cvq", silence_db=-60).num_bytes)
        assert pauses or sizes[-1] == encode_file(codec, source, tmp_path / "b.cvq").num_bytes
    hangover = 4 * HANGOVER / (40.0 * RATE)
    assert sizes[1] == pytest.approx((0.5 + hangover) * sizes[0], rel=0.06)


@pytest.mark.parametrize("level", [-62.0, -70.0])
def test_comfort_noise_has_the_level_of_the_background(level: float, tmp_path: Path) -> None:
    background = 10 ** (level / 20) * np.sqrt(3)  # of uniform noise with this RMS level
    samples = recording(background=float(background))
    noise = ComfortNoise(LevelCodec())
    silent = SilenceDetector(LevelCodec(), -50)
    list(silent.watch([samples[None]]))
    mask = silent.take(silent.ready)
    noise.filled(np.zeros((1, 2, mask.shape[1]), dtype=np.int64), mask)
    mixed = noise.added(samples[None])[0, 0]
    inside = np.repeat(mask[0], HOP)
    rms = 20 * np.log10(np.sqrt(np.mean(mixed[inside] ** 2)))
    assert rms == pytest.approx(level, abs=0.5)
    assert not np.array_equal(mixed[inside], samples[0, inside])
    rising = np.zeros_like(inside)
    for end in np.flatnonzero(np.diff(inside.astype(int)) == -1):
        rising[end + 1 : end + 1 + FADE] = True
    assert np.array_equal(mixed[~inside & ~rising], samples[0, ~inside & ~rising])
    difference = (mixed - samples[0])[rising]
    assert np.abs(difference).max() < 4 * background, "only background is faded, no speech"


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 3000), max_size=20), frames=st.lists(st.integers(1, 30), max_size=20))
def test_detection_and_noise_do_not_depend_on_blocks(sizes: list[int], frames: list[int]) -> None:
    codec, samples = LevelCodec(), recording(seconds=3.0)[None, :, :-7]

    def detected(blocks: list[np.ndarray]) -> np.ndarray:
        detector, found = SilenceDetector(codec), []
        for _ in detector.watch(blocks):
            found.append(detector.take(detector.ready))
        return np.concatenate([*found, detector.take(detector.ready)], axis=1)

    whole = detected([samples])
    cuts = np.minimum(np.cumsum(sizes, dtype=int), samples.shape[2])
    assert np.array_equal(detected(np.split(samples, cuts, axis=2)), whole)
    loud = np.abs(np.pad(samples[0, 0], (0, 7)).reshape(-1, HOP)).max(axis=1) >= 10**-3
    before = HANGOVER // HOP
    expected = [t >= before and not loud[max(0, t - before) : t + 2].any() for t in range(len(loud))]
    assert whole[0].tolist() == expected

    audio = np.pad(samples, ((0, 0), (0, 0), (0, 7)))
    codes = np.zeros((1, 2, whole.shape[1]), dtype=np.int64)
    one, other, parts, at = ComfortNoise(codec), ComfortNoise(codec), [], 0
    one.filled(codes, whole)
    mixed = one.added(audio)
    for size in [*frames, whole.shape[1]]:
        chunk = slice(at, at + size)
        other.filled(codes[:, :, chunk], whole[:, chunk])
        parts.append(other.added(audio[:, :, at * HOP : (at + size) * HOP]))
        at = min(at + size, whole.shape[1])
    assert np.array_equal(np.concatenate(parts, axis=2), mixed)


def test_silent_frames_of_strides_decode(tmp_path: Path) -> None:
    codec = LevelCodec(strides=[4, 2])
    source = written(tmp_path / "a.wav", recording())
    encode_file(codec, source, tmp_path / "a.cvq", silence_db=-60)
    silent = read_cvq(tmp_path / "a.cvq", codec).silent
    changes = np.flatnonzero(np.diff(silent)) + 1
    assert len(changes) > 4
    assert not (changes % 4).any()
    assert decode_file(codec, tmp_path / "a.cvq", tmp_path / "b.wav").num_samples == 8 * RATE


def test_a_pipe_skips_the_same_frames_and_parts_have_the_noise_of_the_whole(tmp_path: Path) -> None:
    codec = FramewiseCodec()
    source = written(tmp_path / "a.wav", recording())
    encode_file(codec, source, tmp_path / "a.cvq", silence_db=-60)
    stream = io.BytesIO()
    with source.open("rb") as file:
        encode_pipe(codec, PcmReader(file), stream, chunk_s=1.0, silence_db=-60)
    assert stream.getvalue() == (tmp_path / "a.cvq").read_bytes()
    decode_file(codec, tmp_path / "a.cvq", tmp_path / "whole.wav")
    decode_file(codec, tmp_path / "a.cvq", tmp_path / "again.wav")
    whole, _ = soundfile.read(tmp_path / "whole.wav")
    assert np.array_equal(whole, soundfile.read(tmp_path / "again.wav")[0])
    decode_file(codec, tmp_path / "a.cvq", tmp_path / "part.wav", start_s=2.0, end_s=5.0)
    part, _ = soundfile.read(tmp_path / "part.wav")
    assert np.abs(part - whole[2 * RATE : 5 * RATE]).max() < 0.01


def test_speech_with_pauses_decodes_at_the_level_of_its_background(tmp_path: Path) -> None:
    codec, samples = network_codec(), recording(background=0.0)
    source = written(tmp_path / "a.wav", samples)
    encode_file(codec, source, tmp_path / "a.cvq", silence_db=-60)
    decode_file(codec, tmp_path / "a.cvq", tmp_path / "b.wav")
    decoded, _ = soundfile.read(tmp_path / "b.wav")
    inside = np.repeat(read_cvq(tmp_path / "a.cvq", codec).silent, codec.hop_length)[: len(decoded)]
    for start, end in np.flatnonzero(np.diff(inside, prepend=False, append=False)).reshape(-1, 2):
        pause = decoded[start + FADE : end]
        assert np.sqrt(np.mean(pause**2)) <= 1.1 * 10 ** (HIGHEST_DB / 20)

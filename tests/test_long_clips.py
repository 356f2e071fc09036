"""Long clips in evaluations: coded as a stream with the codes of the whole, and measured in pieces."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from small_codecs import RATE, LevelCodec
from test_recordings import FramewiseCodec, network_codec, surveyed_codec

from codecvq.audio import read_audio, write_audio
from codecvq.data import Clip
from codecvq.evaluation.compare import compare
from codecvq.evaluation.evaluate import evaluate
from codecvq.evaluation.metrics import prepare
from codecvq.evaluation.transmission import CodecTransmitter, Transmission

PIECE_S = 1.0
CODECS = {
    "stream": FramewiseCodec,
    "whole": LevelCodec,
    "stereo": lambda: FramewiseCodec(channels=2),
    "network": network_codec,
    "surveyed": surveyed_codec,
}


def noise(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """Noise of amplitude 0.3 times the square of a sine of 0.7 Hz: [S]."""
    time_s = np.arange(round(seconds * rate)) / rate
    values = np.random.default_rng(seed).uniform(-0.3, 0.3, time_s.size)
    return (values * np.sin(np.pi * 0.7 * time_s) ** 2).astype(np.float32)


def set_piece(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    for module in ("pieces", "evaluate", "compare"):
        monkeypatch.setattr(sys.modules[f"codecvq.evaluation.{module}"], "PIECE_S", seconds)


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Clip]:
    """A long clip at another sample rate, and a short one. Clips above a second are long."""
    set_piece(monkeypatch, PIECE_S)
    long = write_audio(tmp_path / "long.wav", noise(4.3, 22_050), 22_050)
    short = write_audio(tmp_path / "short.wav", noise(0.9, RATE, 1), RATE)
    return [Clip(id="long", path=long), Clip(id="short", path=short)]


def pieces_of(samples: np.ndarray, piece: int) -> list[np.ndarray]:
    """The pieces by their definition: the last has between 0.5 and 1.5 times the length."""
    count = max(1, (2 * samples.size + piece) // (2 * piece) - (samples.size % piece == piece // 2))
    ends = [*(piece * n for n in range(1, count)), samples.size]
    return [samples[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def mean_over_pieces(metric: str, reference: np.ndarray, decoded: np.ndarray, rate: int) -> float:
    (ready,) = prepare([metric]).ready
    pairs = zip(pieces_of(reference, rate), pieces_of(decoded, rate), strict=True)
    values = [(ready.measure(*pair, rate)[metric], pair[0].size) for pair in pairs]
    return sum(value * size for value, size in values) / reference.size


@pytest.mark.parametrize("name", CODECS)
def test_a_long_clip_has_the_codes_of_the_whole_and_the_mean_over_its_pieces(
    tmp_path: Path, clips: list[Clip], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = CODECS[name]()
    result = evaluate(codec, clips, ["si_sdr"], audio_dir=tmp_path / "audio")
    assert not result.failures
    long, short = result.rows
    reference = clips[0].read(RATE)
    wav = torch.from_numpy(reference).expand(1, codec.channels, -1)
    codes = codec.encode(wav)
    decoded = codec.decode(codes, num_samples=reference.size)[0].mean(dim=0).numpy()
    assert (long.num_samples, long.num_frames) == (reference.size, codes.shape[2])
    assert long.values["si_sdr"] == pytest.approx(
        mean_over_pieces("si_sdr", reference, decoded, RATE), abs=1e-3
    )
    assert (long.pieces, short.pieces) == (4, 1)
    assert long.encode_s > 0
    assert long.decode_s > 0
    assert read_audio(tmp_path / "audio" / long.decoded_audio).duration_s == PIECE_S
    set_piece(monkeypatch, 100.0)
    whole = evaluate(codec, clips, ["si_sdr"])
    assert result.bitrate == whole.bitrate
    assert [row.files for row in result.rows] == [row.files for row in whole.rows]
    assert result.rows[1].values == whole.rows[1].values


@pytest.mark.parametrize("name", CODECS)
def test_compare_counts_the_bits_of_the_whole(
    clips: list[Clip], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transmitter = CodecTransmitter("codec", CODECS[name](), num_codebooks=1 if name == "stream" else None)
    (pieces,) = compare([transmitter], clips, ["si_sdr"], sample_rate=24_000).codecs
    set_piece(monkeypatch, 100.0)
    (whole,) = compare([transmitter], clips, ["si_sdr"], sample_rate=24_000).codecs
    assert not pieces.failures
    assert [row.payload_bits for row in pieces.rows] == [row.payload_bits for row in whole.rows]
    assert [row.duration_s for row in pieces.rows] == [row.duration_s for row in whole.rows]
    assert [row.pieces for row in pieces.rows] == [4, 1]
    reference = clips[0].read(24_000)
    decoded = transmitter.transmit(reference, 24_000).samples
    expected = mean_over_pieces("si_sdr", reference, decoded, 24_000)
    assert pieces.rows[0].values["si_sdr"] == pytest.approx(expected, abs=1e-3)


class EightBits:
    """An external codec: rounds samples to 8 bits. `lengths` lists what it transmitted."""

    name = "eight"
    identity: Mapping[str, Any] = {"bits": 8}

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def transmit(self, samples: np.ndarray, sample_rate: int) -> Transmission:
        self.lengths.append(samples.size)
        return Transmission(np.rint(samples * 128) / np.float32(128), 8 * samples.size)


def test_external_codecs_transmit_long_clips_in_pieces(clips: list[Clip]) -> None:
    codec = EightBits()
    (compared,) = compare([codec], clips, ["si_sdr"]).codecs
    assert codec.lengths == [16_000] * 4 + [4800, 14_400]
    assert [row.payload_bits for row in compared.rows] == [8 * 68_800, 8 * 14_400]


@pytest.mark.parametrize(
    "run", [evaluate, lambda codec, *rest: compare([CodecTransmitter("c", codec)], *rest)]
)
def test_a_long_clip_that_ends_in_damage_is_a_failure_of_its_own(
    tmp_path: Path, clips: list[Clip], run: Any
) -> None:
    samples = noise(3.0, RATE)
    samples[-10] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, RATE, subtype="FLOAT")
    result = run(FramewiseCodec(), [Clip(id="nan", path=tmp_path / "nan.wav"), *clips], ["si_sdr"])
    result = result.codecs[0] if hasattr(result, "codecs") else result
    assert [(failure.clip, failure.stage) for failure in result.failures] == [("nan", "read")]
    assert [row.id for row in result.rows] == ["long", "short"]


def test_a_metric_that_is_undefined_for_some_pieces_is_the_mean_over_the_others(
    tmp_path: Path, clips: list[Clip]
) -> None:
    samples = np.concatenate([noise(2.0, RATE), np.zeros(2 * RATE, np.float32)])
    write_audio(tmp_path / "half.wav", samples, RATE)
    write_audio(tmp_path / "none.wav", np.zeros(2 * RATE), RATE)
    silent = [Clip(id=name, path=tmp_path / f"{name}.wav") for name in ("half", "none")]
    result = evaluate(FramewiseCodec(), [*silent, clips[0]], ["si_sdr"])
    values = {row.id: row.values for row in result.rows}
    assert set(values["half"]) == {"si_sdr"}
    assert not values["none"]
    assert [(entry.clip, entry.metric) for entry in result.undefined] == [("none", "si_sdr")]

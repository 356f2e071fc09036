"""Evaluation of a codec: bit rates, means and intervals, failures, and files."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import codecvq_metrics
import numpy as np
import pytest
import soundfile
import torch
from small_codecs import MulawCodec

from codecvq import MetricSpec, hookimpl
from codecvq.audio import read_audio
from codecvq.data.corpus import Clip
from codecvq.errors import CodecvqError, CorpusError
from codecvq.evaluation import Evaluation, MetricUndefined, evaluate, prepare
from codecvq.evaluation.bitrate import CodeCounter, file_bytes, rates
from codecvq.evaluation.interval import mean_of
from codecvq.evaluation.metrics import MetricSet
from codecvq.plugins import Registry

RATE = 16_000


def error_metric():
    """The mean absolute error. Undefined for a silent reference, fails on a clip of 1,234 samples."""

    def measure(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> dict[str, float]:
        if reference.size == 1_234:
            raise ZeroDivisionError("a fault of the plugin")
        if not reference.any():
            raise MetricUndefined("the reference is silent")
        return {"error": float(np.abs(reference - decoded).mean())}

    return measure


class ErrorMetricPlugin:
    @hookimpl
    def codecvq_metrics(self):
        yield MetricSpec(name="error", factory=error_metric, columns=("error",), higher_is_better=False)


@pytest.fixture(scope="module")
def metrics() -> MetricSet:
    """Fast metrics: SI-SDR, mel distance and a third-party metric."""
    registry = Registry()
    registry.register(codecvq_metrics, "codecvq")
    registry.register(ErrorMetricPlugin(), "third-party")
    return prepare(["si_sdr", "mel_distance", "error"], registry)


def clip_of(
    folder: Path, name: str, samples: np.ndarray, speaker: str = "", language: str = "", rate: int = RATE
) -> Clip:
    soundfile.write(folder / f"{name}.wav", samples, rate)
    return Clip(
        id=f"set/{name}",
        path=folder / f"{name}.wav",
        speaker=speaker,
        language=language,
        text=f"says, {name}",
    )


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Noise clips of odd lengths by two speakers, at 16 and 24 kHz."""
    generator = np.random.default_rng(0)
    lengths = [(4_001, "ann", RATE), (3_000, "ann", RATE), (2_999, "bob", RATE), (6_000, "bob", 24_000)]
    return [
        clip_of(tmp_path, f"clip{i}", 0.2 * generator.standard_normal(length), speaker, "en", rate)
        for i, (length, speaker, rate) in enumerate(lengths)
    ]


# numbers


def test_interval_contains_its_mean_and_has_the_stated_coverage() -> None:
    covered = 0
    for trial in range(100):
        values = np.random.default_rng(trial).normal(3.0, 1.0, size=60)
        mean = mean_of(list(values))
        assert mean.low < mean.value < mean.high
        covered += mean.low <= 3.0 <= mean.high
    assert 0.88 <= covered / 100 <= 0.99


@pytest.mark.parametrize(("values", "expected"), [([], (None, None, None, 0)), ([2.0], (2.0, None, None, 1))])
def test_mean_of_too_few_has_no_interval(values: list[float], expected: tuple) -> None:
    mean = mean_of(values)
    assert (mean.value, mean.low, mean.high, mean.n) == expected


def test_interval_is_reproducible_and_has_the_theoretical_width() -> None:
    values = list(np.random.default_rng(0).standard_normal(3_000))  # more draws than in one block
    mean = mean_of(values)
    assert mean == mean_of(values)
    assert mean.high - mean.low == pytest.approx(2 * 1.96 * np.std(values) / 3_000**0.5, rel=0.1)


@pytest.mark.parametrize("size", [2, 5, 1024, 2**60])
def test_entropy_of_uniform_codes_is_log2_of_their_number(size: int) -> None:
    counter = CodeCounter([size, size])
    used = np.array([0, size - 1])
    counter.add(np.stack([np.tile(used, 50), np.zeros(100, np.int64)]))
    even, constant = counter.stats()
    assert (even.used, even.frames) == (2, 100)
    assert even.entropy_bits == pytest.approx(1.0)
    assert even.perplexity == pytest.approx(2.0)
    assert even.corrected_entropy_bits <= math.log2(size)
    assert (constant.used, constant.entropy_bits, constant.corrected_entropy_bits) == (1, 0.0, 0.0)


def test_the_correction_removes_most_of_the_entropy_bias() -> None:
    plain, corrected = [], []
    for seed in range(20):
        counter = CodeCounter([64])
        counter.add(np.random.default_rng(seed).integers(0, 64, size=(1, 400)))
        (use,) = counter.stats()
        plain.append(use.entropy_bits)
        corrected.append(use.corrected_entropy_bits)
    assert np.mean(plain) < 5.93  # the exact value is 6 bits
    assert 5.97 < np.mean(corrected) <= 6.0


def test_counts_do_not_depend_on_clip_boundaries() -> None:
    codes = np.random.default_rng(1).integers(0, 9, size=(3, 500))
    whole, parts = CodeCounter([9] * 3), CodeCounter([9] * 3)
    whole.add(codes)
    for part in np.split(codes, [0, 1, 77, 500], axis=1):
        parts.add(part)
    assert whole.stats() == parts.stats()


def test_rates_add_up() -> None:
    counter = CodeCounter([8, 32])
    counter.add(np.random.default_rng(2).integers(0, 8, size=(2, 4_000)))
    found = rates(counter, 50.0, 80.0)
    assert found.nominal_bps == pytest.approx(50 * (3 + 5))
    assert found.entropy_bps == pytest.approx(50 * (3 + 3), rel=0.01)
    assert found.packed_payload_bps is None
    assert rates(CodeCounter([8]), 50.0, 0.0).entropy_bps == 0.0


def test_codes_count_once_per_block_and_absent_codes_do_not_count() -> None:
    blocks = np.random.default_rng(4).integers(0, 8, size=(1, 50))
    codes = np.concatenate([np.repeat(blocks, 4, axis=1), np.random.default_rng(5).integers(0, 32, (1, 200))])
    counter = CodeCounter([8, 32], strides=(4, 1))
    counter.add(codes)
    counter.add(np.array([[3] * 4 + [5], [-1] * 5]))  # the second codebook is absent
    coarse, fine = counter.stats()
    assert (coarse.frames, coarse.codes_a_frame) == (52, 0.25)
    assert (fine.frames, fine.codes_a_frame) == (200, 200 / 205)
    found = rates(counter, 50.0, 4.1)
    assert found.frames == 205
    assert found.nominal_bps == pytest.approx(50 * (3 / 4 + 5 * 200 / 205))
    assert found.entropy_bps == pytest.approx(50 * (coarse.entropy_bits / 4 + fine.entropy_bits * 200 / 205))
    alone = CodeCounter([8])
    alone.add(np.append(blocks, [[3, 5]], axis=1))
    assert alone.stats()[0].entropy_bits == coarse.entropy_bits


def test_real_rate_is_nominal_for_uniform_codes_and_much_lower_for_constant_codes() -> None:
    codec = MulawCodec(levels=16, hop_length=4)
    even = np.random.default_rng(3).integers(0, 16, size=(4, 4_000))
    found = file_bytes(codec, even, 16_000)
    assert found.packed_payload_bits == pytest.approx(4 * 4 * 4_000, rel=0.01)
    assert found.packed_file_bytes * 8 > found.packed_payload_bits
    assert (
        file_bytes(codec, np.zeros_like(even), 16_000).entropy_payload_bits < found.packed_payload_bits / 10
    )


# evaluate


def test_every_clip_is_evaluated(clips: list[Clip], metrics: MetricSet, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    codec = MulawCodec(levels=64)
    found = evaluate(codec, iter(clips), metrics, progress=lambda *args: seen.append(args))
    assert [row.num_samples for row in found.rows] == [4_001, 3_000, 2_999, 4_000]
    assert [row.num_frames for row in found.rows] == [501, 375, 375, 500]
    assert (found.exact_lengths, found.decoded, found.clips_given) == (4, 4, 4)
    assert seen == [(i + 1, 4, clip.id) for i, clip in enumerate(clips)]
    assert not found.failures
    assert not found.undefined
    assert found.bitrate.nominal_bps == pytest.approx(codec.bitrate)
    assert found.bitrate.duration_s == pytest.approx(14_000 / RATE)
    assert found.bitrate.entropy_bps < found.bitrate.nominal_bps
    payload = found.bitrate.packed_payload_bps
    assert payload == pytest.approx(found.bitrate.nominal_bps, rel=0.01)
    for name, mean in found.means.items():
        assert mean.value == pytest.approx(np.mean([row.values[name] for row in found.rows]))
        assert mean.n == 4
    assert found.encode_rtf > 0
    assert found.codec["weights_sha256"] == codec.weights_sha256


def test_a_finer_codec_has_better_metrics(clips: list[Clip], metrics: MetricSet) -> None:
    coarse, fine = (evaluate(MulawCodec(levels=levels), clips, metrics).means for levels in (8, 128))
    assert fine["si_sdr"].value > coarse["si_sdr"].value
    assert fine["mel_distance"].value < coarse["mel_distance"].value
    assert fine["error"].value < coarse["error"].value


def test_failed_clips_are_listed_and_the_others_are_measured(
    clips: list[Clip], metrics: MetricSet, tmp_path: Path
) -> None:
    (tmp_path / "text.wav").write_text("this is no audio")
    generator = np.random.default_rng(1)
    odd = [
        Clip(id="text", path=tmp_path / "text.wav"),
        Clip(id="gone", path=tmp_path / "gone.wav"),
        clip_of(tmp_path, "silent", np.zeros(2_000)),
        clip_of(tmp_path, "fault", 0.1 * generator.standard_normal(1_234)),
    ]
    found = evaluate(MulawCodec(levels=9), [*odd, *clips], metrics)
    assert [row.id for row in found.rows] == ["set/silent", "set/fault", *(clip.id for clip in clips)]
    assert {(f.clip, f.stage, f.metric) for f in found.failures} == {
        ("text", "read", ""),
        ("gone", "read", ""),
        ("set/fault", "metric", "error"),
    }
    assert "ZeroDivisionError: a fault of the plugin" in {f.reason for f in found.failures}
    assert {(u.clip, u.metric) for u in found.undefined} == {
        ("set/silent", "si_sdr"),
        ("set/silent", "error"),
    }
    assert found.means["mel_distance"].n == 6
    assert found.means["si_sdr"].n == 5
    assert found.means["error"].n == 4
    values = [row.values["error"] for row in found.rows if "error" in row.values]
    assert found.means["error"].value == pytest.approx(sum(values) / 4)
    assert [row.n for row in found.table()[:3]] == ["5 of 6", "6", "4 of 6"]


def test_group_means_cover_the_clips_of_the_group(clips: list[Clip], metrics: MetricSet) -> None:
    found = evaluate(MulawCodec(), clips, metrics)
    assert set(found.groups["speaker"]) == {"ann", "bob"}
    assert found.groups["language"] == {}  # all clips have the same language
    expected = np.mean([row.values["error"] for row in found.rows if row.speaker == "bob"])
    assert found.groups["speaker"]["bob"]["error"].value == pytest.approx(expected)
    assert found.groups["speaker"]["bob"]["error"].n == 2


class OneTooMany(MulawCodec):
    def decode(self, codes: torch.Tensor, num_samples: int | None = None) -> torch.Tensor:
        extra = 1 if num_samples == 3_000 else 0
        wav = super().decode(codes, num_samples)
        return torch.cat((wav, wav[..., :extra]), dim=-1)


class NotANumber(MulawCodec):
    def decode(self, codes: torch.Tensor, num_samples: int | None = None) -> torch.Tensor:
        return super().decode(codes, num_samples) * (math.nan if num_samples == 3_000 else 1)


class Broken(MulawCodec):
    def encode(self, wav: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("kernel size can't be greater than actual input size")


@pytest.mark.parametrize(
    ("codec", "stage", "exact"),
    [(OneTooMany(), "length", 3), (NotANumber(), "finite", 4)],
    ids=["length", "finite"],
)
def test_invalid_decoded_clips_are_not_measured(
    codec: MulawCodec, stage: str, exact: int, clips: list[Clip], metrics: MetricSet
) -> None:
    found = evaluate(codec, clips, metrics)
    assert [(f.clip, f.stage) for f in found.failures] == [("set/clip1", stage)]
    assert (found.exact_lengths, found.decoded, len(found.rows)) == (exact, 4, 3)
    assert all(mean.n == 3 for mean in found.means.values())


def test_a_codec_that_always_fails_is_an_error_with_its_cause(clips: list[Clip], metrics: MetricSet) -> None:
    with pytest.raises(CodecvqError, match=r"none of 4 clips.*kernel size") as caught:
        evaluate(Broken(), clips, metrics)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_empty_corpus_is_an_error(metrics: MetricSet) -> None:
    with pytest.raises(CorpusError, match="no clips to evaluate"):
        evaluate(MulawCodec(), [], metrics)


@pytest.mark.parametrize(
    ("most", "expected"), [(1, [0]), (2, [0, 2]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])]
)
def test_max_clips_are_spread_over_the_corpus(
    most: int, expected: list[int], clips: list[Clip], metrics: MetricSet
) -> None:
    found = evaluate(MulawCodec(), clips, metrics, max_clips=most)
    assert [row.id for row in found.rows] == [f"set/clip{i}" for i in expected]


def test_max_clips_of_zero_is_an_error(clips: list[Clip], metrics: MetricSet) -> None:
    with pytest.raises(CorpusError, match="max_clips is 0"):
        evaluate(MulawCodec(), clips, metrics, max_clips=0)


def test_stereo_codecs_receive_the_clip_on_both_channels(clips: list[Clip], metrics: MetricSet) -> None:
    mono, stereo = (evaluate(MulawCodec(channels=channels), clips, metrics) for channels in (1, 2))
    assert [row.values for row in stereo.rows] == [row.values for row in mono.rows]


def test_written_audio_is_the_measured_audio(clips: list[Clip], metrics: MetricSet, tmp_path: Path) -> None:
    same_name = [replace(clips[0], id="a/b"), replace(clips[1], id="a?b")]
    found = evaluate(MulawCodec(), same_name, metrics, audio_dir=tmp_path / "audio")
    names = {name for row in found.rows for name in (row.original_audio, row.decoded_audio)}
    assert len(names) == 4
    for row in found.rows:
        original, decoded = (read_audio(path).samples[0] for path in found.audio(row))
        assert original.size == decoded.size == row.num_samples
        assert np.abs(original - decoded).mean() == pytest.approx(row.values["error"], rel=1e-3)


# files


def test_a_saved_evaluation_loads_unchanged_also_after_a_move(
    clips: list[Clip], metrics: MetricSet, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    silent = clip_of(tmp_path, "silent", np.zeros(2_000))
    found = evaluate(MulawCodec(), [*clips, silent], metrics, audio_dir=folder / "audio")
    assert found.save(folder) == folder / "evaluation.json"
    assert Evaluation.load(folder) == found
    moved = folder.rename(tmp_path / "elsewhere")
    again = Evaluation.load(moved)
    assert again.rows == found.rows
    assert all(path.is_file() for row in again.rows for path in again.audio(row))
    assert not [path for path in moved.iterdir() if "tmp" in path.name]


def test_csv_has_one_line_per_clip_and_empty_cells_for_undefined_values(
    clips: list[Clip], metrics: MetricSet, tmp_path: Path
) -> None:
    silent = clip_of(tmp_path, "silent", np.zeros(2_000))
    found = evaluate(MulawCodec(), [silent, *clips], metrics)
    found.save(tmp_path / "out")
    with (tmp_path / "out" / "clips.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["id"] for line in lines] == [row.id for row in found.rows]
    assert lines[0]["si_sdr"] == lines[0]["error"] == ""
    assert "si_sdr: the reference is silent" in lines[0]["left_out"]
    assert float(lines[1]["si_sdr"]) == found.rows[1].values["si_sdr"]
    assert lines[1]["text"] == "says, clip0"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', '{"format": 99}', "no json"])
def test_an_invalid_evaluation_file_is_an_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(CodecvqError, match="codecvq"):
        Evaluation.load(tmp_path)


def test_the_error_of_a_missing_evaluation_says_how_to_create_it(tmp_path: Path) -> None:
    with pytest.raises(CodecvqError, match="codecvq evaluate"):
        Evaluation.load(tmp_path / "nothing")

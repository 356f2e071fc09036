"""Comparison of codecs on the same clips: rates, depths, groups, differences and failures."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from small_codecs import LevelCodec

from codecvq import CodecSpec, hookimpl
from codecvq.audio import write_audio
from codecvq.cli.app import main
from codecvq.codec import Codec
from codecvq.data.corpus import Clip, Corpus, open_corpus
from codecvq.errors import CodecError, CodecvqError, CorpusError, MissingProgram, OptionError
from codecvq.evaluation import Transmission, compare
from codecvq.evaluation.comparison import ALL, Comparison
from codecvq.evaluation.packet_loss import PacketLoss
from codecvq.evaluation.transmission import CodecTransmitter, open_transmitter
from codecvq.plugins import registry

RATE = 16_000
HOP = 160
MEASURED = ["si_sdr", "mel_distance"]


@dataclass
class Rounding:
    """An external codec that rounds each sample to `bits` bits."""

    bits: int
    name: str = ""
    identity: dict[str, int] = field(default_factory=dict)
    fails_at: int = -1  # number of the transmission that raises
    sent: int = 0

    def __post_init__(self) -> None:
        self.name, self.identity = self.name or f"round-{self.bits}", {"bits": self.bits}

    def transmit(self, samples: np.ndarray, sample_rate: int) -> Transmission:
        self.sent += 1
        if self.sent - 1 == self.fails_at:
            raise RuntimeError("out of bits")
        step = np.float32(2.0 ** (1 - self.bits))
        return Transmission(np.round(samples / step) * step, self.bits * samples.size)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A manifest with groups: six clips of noise, 0.5 to 1 s long, each louder than the one before."""
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for i in range(6):
        noise = np.random.default_rng(i).standard_normal(8000 + 1600 * i) * 0.02 * (i + 1)
        write_audio(folder / f"{i}.wav", noise, RATE)
        group = ("near", "far")[i % 2]
        rows.append({"path": f"{i}.wav", "id": f"clip/{i}", "group": group, "speaker": f"s{i % 3}"})
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_corpus(manifest=folder / "clips.jsonl")


@pytest.fixture(scope="module")
def codec() -> Codec:
    torch.manual_seed(0)
    network = {"name": "spectral", "hop_length": HOP, "window_length": 320, "num_mels": 20, "dim": 8}
    network |= {
        f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in (("width", 16), ("blocks", 1))
    }
    quantizer = {"name": "residual_vq", "codebook_size": 16, "num_codebooks": 3}
    return Codec(sample_rate=RATE, network=network, quantizer=quantizer, name="tiny").eval()


@pytest.fixture(scope="module")
def compared(corpus: Corpus) -> Comparison:
    return compare([Rounding(8), Rounding(5)], corpus, MEASURED, data="noise")


def test_rates_are_total_bits_divided_by_total_seconds(compared: Comparison) -> None:
    for group in compared.groups:
        assert compared.codec("round-8").bitrate_bps(group) == pytest.approx(8 * RATE)
    assert [row[:2] for row in compared.table()] == [["round-8", "128.00"], ["round-5", "80.00"]]


def test_groups_follow_the_manifest_and_partition_the_clips(compared: Comparison, corpus: Corpus) -> None:
    assert compared.groups == (ALL, "far", "near")
    finer = compared.codec("round-8")
    assert len(finer.in_group("far")) + len(finer.in_group("near")) == len(finer.in_group()) == len(corpus)
    values = [row.values["si_sdr"] for row in finer.in_group("far")]
    assert finer.mean("si_sdr", "far").value == pytest.approx(np.mean(values))
    by_speaker = compare([Rounding(8)], corpus, MEASURED, group_by="speaker")
    assert by_speaker.groups == (ALL, "s0", "s1", "s2")


def test_unknown_groups_are_an_error(corpus: Corpus) -> None:
    with pytest.raises(CorpusError, match=r"no column 'accent'.*group.*speaker"):
        compare([Rounding(8)], corpus, MEASURED, group_by="accent")


def test_a_paired_difference_equals_the_difference_of_means_with_a_narrower_interval(
    compared: Comparison,
) -> None:
    finer, coarser = compared.codec("round-8").mean("si_sdr"), compared.codec("round-5").mean("si_sdr")
    difference = compared.difference("round-8", "round-5", "si_sdr")
    assert difference.value == pytest.approx(finer.value - coarser.value)
    assert difference.value == pytest.approx(20 * np.log10(8), abs=1.5)  # three bits, 6 dB each
    assert difference.low > 10
    assert difference.high - difference.low < 0.5 * (finer.high - finer.low)
    assert compared.difference("round-5", "round-8", "si_sdr").value == pytest.approx(-difference.value)
    with pytest.raises(CodecvqError, match="the codecs are round-8, round-5"):
        compared.difference("round-8", "opus", "si_sdr")


def test_each_depth_of_a_codec_is_measured_with_its_real_rate(codec: Codec, corpus: Corpus) -> None:
    depths = [CodecTransmitter(f"tiny@{n}", codec, n) for n in (1, 2, 3)]
    result = compare(depths, corpus, ["mel_distance"])
    rates = [result.codec(depth.name).bitrate_bps() for depth in depths]
    # 4 bits per codebook, 100 frames per second. Payloads are padded to bytes, clips to frames.
    for n, rate in enumerate(rates, start=1):
        assert 400 * n <= rate < 400 * n * 1.02 + 16
    assert [result.codec(depth.name).identity["codebooks_used"] for depth in depths] == [1, 2, 3]
    whole = CodecTransmitter("tiny", codec).transmit(corpus[0].read(RATE), RATE)
    np.testing.assert_array_equal(whole.samples, depths[2].transmit(corpus[0].read(RATE), RATE).samples)


def test_a_codec_is_measured_at_the_common_rate(codec: Codec, corpus: Corpus) -> None:
    for rate in (8_000, 22_050, 24_000):
        samples = corpus[0].read(rate)
        sent = CodecTransmitter("tiny", codec).transmit(samples, rate)
        assert sent.samples.shape == samples.shape


def test_a_folder_name_with_a_depth_opens_the_codec_at_that_depth(codec: Codec, tmp_path: Path) -> None:
    folder = codec.save(tmp_path / "saved")
    opened = open_transmitter(f"{folder}@2")
    assert opened.identity["codebooks_used"] == 2
    assert opened.identity["weights_sha256"] == codec.weights_sha256
    with pytest.raises(CodecError, match=r"num_codebooks is 4.*1 to 3"):
        open_transmitter(f"{folder}@4")
    codec.save(tmp_path / "at@2")  # an existing path is not split at the @
    assert open_transmitter(str(tmp_path / "at@2")).identity["codebooks_used"] == 3


class NotInstalled(Rounding):
    def __init__(self) -> None:
        raise MissingProgram("codec 'absent'", "absentenc", "apt-get install absent")


class Plugin:
    @hookimpl
    def codecvq_codecs(self):
        yield CodecSpec(name="coarse-4", factory=lambda: Rounding(4, "coarse-4"), external=True)
        yield CodecSpec(name="absent", factory=NotInstalled, external=True)


@pytest.fixture
def plugin():
    origin = registry().register(Plugin(), "comparison-test")
    yield
    registry().unregister(origin)


def test_a_codec_that_is_not_installed_is_reported_and_the_others_are_measured(
    plugin, corpus: Corpus
) -> None:
    result = compare(["absent", "coarse-4"], corpus, MEASURED)
    assert [codec.name for codec in result.codecs] == ["coarse-4"]
    assert "apt-get install absent" in result.absent["absent"]
    with pytest.raises(CodecvqError, match="apt-get install absent"):
        compare(["absent"], corpus, MEASURED)


def test_wrong_names_are_an_error_before_anything_is_measured(plugin, corpus: Corpus) -> None:
    first = Rounding(8)
    with pytest.raises(CodecError, match=r"Did you mean 'coarse-4'"):
        compare([first, "coarse-3"], corpus, MEASURED)
    with pytest.raises(CodecError, match="has no codebooks"):
        compare([first, "coarse-4@2"], corpus, MEASURED)
    with pytest.raises(CodecvqError, match="coarse-4 is given twice"):
        compare(["coarse-4", "coarse-4"], corpus, MEASURED)
    with pytest.raises(CodecvqError, match="no codec was given"):
        compare([], corpus, MEASURED)
    assert first.sent == 0


def test_failed_clips_are_listed_and_the_others_are_measured(corpus: Corpus, tmp_path: Path) -> None:
    clips = [*corpus, Clip(id="gone", path=tmp_path / "gone.wav")]
    result = compare([Rounding(8, fails_at=2), Rounding(5)], clips, MEASURED, group_by="")
    left = [(f.clip, f.stage) for f in result.codec("round-8").failures]
    assert left == [("clip/2", "codec"), ("gone", "read")]
    assert len(result.codec("round-8").rows) == 5
    assert len(result.codec("round-5").rows) == 6
    assert result.difference("round-8", "round-5", "si_sdr").n == 5
    with pytest.raises(CodecvqError, match=r"none of the clips.*'clip/0'.*wrong size"):
        compare([WrongLength(8)], corpus, MEASURED)


class WrongLength(Rounding):
    def transmit(self, samples: np.ndarray, sample_rate: int) -> Transmission:
        raise ValueError("wrong size")


@pytest.mark.parametrize(("decoded", "reason"), [(np.zeros(3), "3 samples"), (None, "NaN")])
def test_invalid_decoded_audio_is_a_failure(decoded, reason: str, corpus: Corpus) -> None:
    class Odd(Rounding):
        def transmit(self, samples: np.ndarray, sample_rate: int) -> Transmission:
            return Transmission(np.full_like(samples, np.nan) if decoded is None else decoded, 1)

    result = compare([Odd(2, "odd"), Rounding(5)], corpus, MEASURED)
    assert result.codec("odd").rows == ()
    assert all(reason in failure.reason for failure in result.codec("odd").failures)
    assert result.table()[0] == ["odd", "–", "–", "–"]


def test_saved_files_contain_every_number(compared: Comparison, tmp_path: Path) -> None:
    path = compared.save(tmp_path / "out")
    data = json.loads(path.read_text())
    far = data["codecs"][0]["groups"]["far"]
    assert far["clips"] == 3
    assert far["means"]["si_sdr"]["value"] == compared.codec("round-8").mean("si_sdr", "far").value
    with (tmp_path / "out/clips.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert float(rows[7]["si_sdr"]) == compared.codec("round-5").rows[1].values["si_sdr"]
    text = (tmp_path / "out/comparison.md").read_text()
    assert text.count("| round-5 | 80.00 |") == 3
    assert "si_sdr ↑ | mel_distance ↓" in text


def test_the_command_prints_tables_and_the_output_folder(
    plugin, corpus: Corpus, codec: Codec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, manifest = codec.save(tmp_path / "saved"), corpus[0].path.parent / "clips.jsonl"
    arguments = ["compare", f"{saved}@1", "coarse-4", "absent", "--data", str(manifest), "--audio"]
    arguments += ["--metrics", ",".join(MEASURED), "--against", "coarse-4", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    out = capsys.readouterr().out
    assert not leaving.value.code
    assert "near: 3 clips, minus coarse-4" in out
    assert "not measured: absent: codec 'absent' needs the program 'absentenc'" in out
    assert str(tmp_path / "out/comparison.json") in out
    assert len(list((tmp_path / "out/audio/coarse-4").glob("*.flac"))) == 6


def test_the_command_prints_only_json(
    plugin, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", "coarse-4", "-d", str(corpus[0].path.parent), "--metrics", "si_sdr", "--json"]
    with pytest.raises(SystemExit) as leaving:
        main([*arguments, "-o", str(tmp_path / "out"), "--max-clips", "2"])
    assert not leaving.value.code
    data = json.loads(capsys.readouterr().out)
    assert data["clips_given"] == 2
    assert list(data["codecs"][0]["groups"]) == ["all"]


@pytest.mark.parametrize("burst", [None, 1.5, 4.0])
def test_lost_packets_have_the_rate_and_the_bursts_that_were_given(burst: float | None) -> None:
    samples, count = np.zeros(10, dtype=np.float32), 200_000
    lost = PacketLoss(10, burst=burst, seed=1).lost_frames(samples, count, 0.02)
    assert lost.mean() == pytest.approx(0.1, abs=0.005)
    runs = np.count_nonzero(np.diff(lost, prepend=False) & lost)
    assert lost.sum() / runs == pytest.approx(burst or 1 / 0.9, rel=0.03)


def test_lost_packets_depend_on_seed_and_clip_and_are_equal_for_all_frame_rates() -> None:
    clips = np.random.default_rng(0).standard_normal((2, 100)).astype(np.float32)
    loss = PacketLoss(20, packet_ms=40)
    packets = loss.lost_frames(clips[0], 500, 0.04)
    assert np.array_equal(packets, loss.lost_frames(clips[0], 500, 0.04))
    assert not np.array_equal(packets, loss.lost_frames(clips[1], 500, 0.04))
    assert not np.array_equal(packets, PacketLoss(20, 40, seed=1).lost_frames(clips[0], 500, 0.04))
    assert np.array_equal(loss.lost_frames(clips[0], 2000, 0.01), packets.repeat(4))
    assert np.array_equal(loss.lost_frames(clips[0], 250, 0.08), packets[::2])
    fewer = PacketLoss(5, packet_ms=40).lost_frames(clips[0], 500, 0.04)
    assert not (fewer & ~packets).any(), "losses at a percentage include those of lower ones"
    assert not PacketLoss(0).lost_frames(clips[0], 500, 0.02).any()
    assert loss.lost_frames(clips[0], 0, 0.02).size == 0


def test_quality_falls_with_lost_packets(corpus: Corpus, codec: Codec, tmp_path: Path) -> None:
    level = LevelCodec()
    transmitters = [CodecTransmitter("tiny", codec), CodecTransmitter("level", level), Rounding(8)]
    losses = [PacketLoss(percent) for percent in (0, 10, 40)]
    compared = compare(transmitters, corpus, ["mel_distance"], data="noise", losses=losses)
    assert [entry.name for entry in compared.codecs] == [
        "tiny", "tiny, 10 % lost", "tiny, 40 % lost", "level", "level, 10 % lost", "level, 40 % lost",
        "round-8",
    ]  # fmt: skip
    assert list(compared.absent) == ["round-8 with loss"]
    curves = compared.loss_curves("mel_distance")
    assert list(curves) == ["tiny", "level"]
    assert [percent for percent, _ in curves["tiny"]] == [0, 10, 40]
    clean, lost = compared.codec("tiny"), compared.codec("tiny, 40 % lost")
    assert lost.bitrate_bps() == clean.bitrate_bps()
    assert lost.identity["packet_loss"] == {"percent": 40, "packet_ms": 20.0, "burst": None, "seed": 0}
    assert sum(a.values != b.values for a, b in zip(clean.rows, lost.rows, strict=True)) == len(corpus)
    again = compare(transmitters[:1], corpus, ["mel_distance"], losses=losses[2:]).codecs[0]
    assert again.rows == lost.rows
    compared.save(tmp_path)
    chart = ElementTree.parse(tmp_path / "loss.svg")
    assert len(list(chart.iter("{http://www.w3.org/2000/svg}polyline"))) == 2


def test_invalid_losses_are_errors(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in {
        (100,): r"loss is 100 %",
        (1, 0): r"packet_ms is 0",
        (1, 20, 0.5): r"burst is 0.5",
        (60, 20, 1): r"Give a burst of at least 1.5",
        (1, 20, None, -1): r"seed is -1",
    }.items():
        with pytest.raises(OptionError, match=message):
            PacketLoss(*arguments)  # type: ignore[arg-type]
    with pytest.raises(CodecvqError, match=r"round-8 with loss: its packets are inside its program"):
        compare([Rounding(8)], corpus, MEASURED, losses=[PacketLoss(1)])
    with pytest.raises(SystemExit):
        main(["compare", "original", "--loss", "1,x", "--out", str(tmp_path)])
    assert "--loss contains 'x'" in capsys.readouterr().err

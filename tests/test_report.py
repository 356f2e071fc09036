"""The report page: complete, self-contained, and safe for untrusted text and numbers."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import codecvq_metrics
import numpy as np
import pytest
import soundfile
from small_codecs import MulawCodec

from codecvq.data.corpus import Clip
from codecvq.evaluation import Evaluation, evaluate, prepare, report, write_report
from codecvq.evaluation.charts import curve_svg, spectrogram_pair
from codecvq.evaluation.training_log import Curve, read_log
from codecvq.plugins import Registry

RATE = 16_000
MARKUP = '<script src="https://example.com/x.js">alert("1")</script>&amp;'
VOID = {"meta", "link", "img", "br", "line", "polyline"}


class Page(HTMLParser):
    """Tags, text and unclosed tags of an HTML page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """Evaluation of eight noise clips, one of them silent, with markup in texts, and of a missing file."""
    folder = tmp_path_factory.mktemp("clips")
    generator = np.random.default_rng(0)
    clips = []
    for i in range(8):
        samples = 0.05 * (i > 0) * (i + 1) * generator.standard_normal(2_000 + 777 * i)
        soundfile.write(folder / f"{i}.wav", samples, RATE)
        clips.append(
            Clip(id=f"{MARKUP}{i}", path=folder / f"{i}.wav", text=MARKUP, speaker=f"s{i % 2}", language="en")
        )
    clips.append(Clip(id="gone", path=folder / "gone.wav"))
    registry = Registry()
    registry.register(codecvq_metrics, "codecvq")
    codec = MulawCodec(name=MARKUP)
    return evaluate(codec, clips, prepare(["si_sdr", "mel_distance"], registry), audio_dir=folder / "audio")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run folder with a recipe and a metrics file whose last line is truncated."""
    lines = [
        {
            "step": step,
            "loss/mel": 1 / (step + 1),
            "loss/total": math.nan if step == 3 else 2.0,
            "note": "text",
        }
        | ({"validation/mel_distance": 0.5} if step % 5 == 0 else {})
        for step in range(20)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 20, "loss/m')
    (tmp_path / "recipe.yaml").write_text(f"name: {MARKUP}\n")
    return tmp_path


@pytest.mark.parametrize("limit", [10**9, 0], ids=["one file", "audio files"])
def test_page_is_self_contained(
    limit: int, evaluation: Evaluation, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "EMBED_BYTES", limit)
    path = write_report(run_dir, evaluation, run_dir, clips=2)
    assert path == run_dir / "report" / "index.html"
    page = Page(path)
    assert page.open == []
    assert not page.attributes("script")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    addresses = [
        a[key] for _, a in page.tags for key in ("src", "href", "data", "action", "srcset") if key in a
    ]
    for address in addresses:
        linked = path.parent / address
        assert address.startswith("data:") or (not limit and "//" not in address and linked.is_file())
    (style,) = re.findall(r"<style>(.*?)</style>", page.html, re.S)
    assert "url(" not in style
    assert "@import" not in style
    policy = next(
        a["content"] for a in page.attributes("meta") if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    assert (path.parent / "audio").exists() == (limit == 0)


def test_players_contain_the_decoded_clips(evaluation: Evaluation, tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, evaluation, clips=3))
    players = page.attributes("audio")
    assert len(players) == 6
    lengths = []
    for player in players:
        kind, _, data = player["src"].partition(";base64,")
        assert kind == "data:audio/flac"
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
        assert rate == RATE
        lengths.append(samples.size)
    assert set(lengths) <= {row.num_samples for row in evaluation.rows}
    assert len(page.attributes("img")) == 3
    assert all(image["alt"] for image in page.attributes("img"))


def test_selected_clips_are_evenly_spaced_from_worst_to_best(evaluation: Evaluation) -> None:
    ranked = sorted(
        (row for row in evaluation.rows if "si_sdr" in row.values), key=lambda row: row.values["si_sdr"]
    )
    selected = [row for row, _ in report._select_clips(evaluation, 3)]
    assert selected == [ranked[0], ranked[3], ranked[6]]
    assert [row for row, _ in report._select_clips(evaluation, 99)] == ranked
    assert report._select_clips(evaluation, 0) == []


def test_page_contains_all_numbers_units_counts_and_exclusions(evaluation: Evaluation, run_dir: Path) -> None:
    page = Page(write_report(run_dir, evaluation, run_dir, clips=1, commands=["codecvq evaluate 'a b'"]))
    mean = evaluation.means["si_sdr"]
    for expected in (
        f"{mean.value:.2f}",
        f"{mean.low:.2f} – {mean.high:.2f}",
        "7 of 8",
        "dB",
        f"{evaluation.bitrate.nominal_bps / 1000:.3f}",
        f"{evaluation.bitrate.entropy_bps / 1000:.3f}",
        f"{evaluation.bitrate.packed_payload_bps / 1000:.3f}",
        f"{evaluation.bitrate.entropy_file_bps / 1000:.3f}",
        evaluation.codec["weights_sha256"],
        evaluation.machine.processor,
        "1 of 9 clips could not be evaluated",
        "si_sdr is undefined: the reference is silent",
        "gone: read failed",
        "By speaker",
        "validation/mel_distance",
        "1 not finite",
        "could not be read: 1",
        "codecvq evaluate 'a b'",
        MARKUP,
    ):
        assert expected in page.text, expected
    assert "By language" not in page.text
    assert "https://example.com" not in re.sub(r"&lt;.*?&gt;", "", page.html)


def test_report_works_without_audio_and_run_folder(evaluation: Evaluation, tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, replace(evaluation, audio_dir=None)))
    assert "This evaluation has no audio" in page.text
    assert "Training" not in page.text
    assert not page.attributes("audio")


def test_deleted_audio_has_no_player(evaluation: Evaluation, tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, replace(evaluation, audio_dir=tmp_path / "nowhere")))
    assert not page.attributes("audio")


def test_writing_twice_gives_the_same_page_and_no_other_files(evaluation: Evaluation, run_dir: Path) -> None:
    first = write_report(run_dir, evaluation, run_dir, clips=1).read_bytes()
    assert write_report(run_dir, evaluation, run_dir, clips=1).read_bytes() == first
    assert [path.name for path in (run_dir / "report").iterdir()] == ["index.html"]


# Curves


def test_read_log_uses_the_last_value_of_a_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"step": 2, "a": 5},
        {"step": 1, "a": 1},
        {"step": 2, "a": 2},
        [1],
        {"a": 3},
        {"step": 1, "b": 1},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\nrubbish\n")
    log = read_log(path)
    assert log.curves == (Curve("a", (1, 2), (1.0, 2.0)),)  # b has only one point, so no curve
    assert log.damaged_lines == 3
    assert read_log(tmp_path / "none").curves == ()


def test_curves_are_sorted_by_importance(tmp_path: Path) -> None:
    names = ["zeta", "learning_rate", "loss/mel", "codebook/usage", "loss/total", "validation/stoi"]
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(json.dumps({"step": step} | dict.fromkeys(names, 1.0)) for step in (1, 2)))
    expected = ["validation/stoi", "loss/total", "loss/mel", "codebook/usage", "learning_rate", "zeta"]
    assert [curve.name for curve in read_log(path).curves] == expected


@pytest.mark.parametrize(
    "values",
    [
        (1.0, 1.0),
        (0.0, 0.0),
        (-3.0, 2.0),
        (1e-9, 3e-9),
        (1e8, 2e8),
        tuple(math.sin(i / 50) for i in range(5_000)),
    ],
    ids=["constant", "zero", "negative", "tiny", "huge", "long"],
)
def test_every_point_of_a_curve_is_inside_the_image(values: tuple[float, ...]) -> None:
    picture = curve_svg(Curve("<x>", tuple(range(10, 10 + len(values))), values))
    points = [
        tuple(map(float, p.split(",")))
        for line in re.findall(r'points="(.*?)"', picture)
        for p in line.split()
    ]
    assert len(points) >= 2 * min(len(values), 300)
    assert all(0 <= x <= 340 and 0 <= y <= 170 for x, y in points)
    assert "<x>" not in picture
    ticks = [float(tick) for tick in re.findall(r'text-anchor="end">([-0-9.e]+)</text>', picture)][:-1]
    assert 2 <= len(ticks) <= 7
    assert ticks[0] <= min(values)
    assert max(values) <= ticks[-1]


@pytest.mark.parametrize("size", [1, 100, 30_000])
def test_spectrograms_work_for_any_length(size: int) -> None:
    signal = 0.1 * np.random.default_rng(0).standard_normal(size).astype(np.float32)
    assert spectrogram_pair(signal, 0 * signal, RATE).startswith(b"\x89PNG")


def test_untrusted_numbers_are_escaped_and_paths_are_confined(evaluation: Evaluation, tmp_path: Path) -> None:
    rows = [replace(row, original_audio="../../secret.wav") for row in evaluation.rows]
    assert [evaluation.audio(row) for row in rows] == [None] * len(rows)
    codec = {**evaluation.codec, "num_codebooks": MARKUP}
    machine = replace(evaluation.machine, threads=MARKUP, processor="\x1b[31m\ud800")
    page = write_report(tmp_path, replace(evaluation, codec=codec, machine=machine, rows=tuple(rows)))
    assert "script" not in [tag for tag, _ in Page(page).tags]
    assert "\\x1b[31m\\ud800" in Page(page).text


@pytest.mark.parametrize(
    "line",
    [
        '{"step": ' + "9" * 400 + ', "loss": 1}',
        '{"step": 1e999, "loss": 1}',
        "[" * 100_000,
        '{"step": "x"}',
        "null",
    ],
    ids=["long", "infinite", "deep", "text", "null"],
)
def test_damaged_log_lines_are_counted(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "a": 1}}\n{line}\n{{"step": 2, "a": 2}}\n')
    log = read_log(tmp_path / "metrics.jsonl")
    assert log.damaged_lines == 1
    assert [curve.values for curve in log.curves] == [(1.0, 2.0)]


def test_values_out_of_range_are_excluded_from_curves(tmp_path: Path) -> None:
    values = [1, 2, 10**400, 1.7e308, -1.7e308, 3]
    lines = [json.dumps({"step": step, "a": value}) for step, value in enumerate(values)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    (curve,) = read_log(tmp_path / "metrics.jsonl").curves
    assert (curve.values, curve.num_excluded) == ((1.0, 2.0, 3.0), 3)
    assert "nan" not in curve_svg(curve)


def test_matplotlib_settings_do_not_change_images() -> None:
    import matplotlib

    noise = 0.1 * np.random.default_rng(0).standard_normal(4000)
    expected = spectrogram_pair(noise, noise, RATE)
    with matplotlib.rc_context({"text.usetex": True, "savefig.facecolor": "red", "font.size": 40}):
        assert spectrogram_pair(noise, noise, RATE) == expected
        assert matplotlib.rcParams["text.usetex"]

"""The metrics of plugins/codecvq_metrics, and their lookup by name."""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path

import codecvq_metrics
import numpy as np
import pytest
from codecvq_metrics import intelligibility, log_spectral_distance, mel_distance, pesq_score, si_sdr, spectrum

from codecvq import MetricSpec, hookimpl
from codecvq.errors import MissingExtra, PluginError, UnknownName
from codecvq.evaluation import metrics
from codecvq.evaluation.metrics import MetricUndefined
from codecvq.plugins import Registry

RATE = 16_000
SPECS = {spec.name: spec for spec in codecvq_metrics.codecvq_metrics()}
NETWORKS = {"visqol", "dnsmos", "speaker_similarity"}  # in test_perceptual_metrics.py
QUICK = [name for name in SPECS if name not in NETWORKS]
needs_pesq = pytest.mark.skipif(
    importlib.util.find_spec("pesq") is None, reason="the extra 'eval' is not installed"
)


def speechlike(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """Synthetic syllables: harmonics 1/k of a gliding pitch, 4 Hz raised-cosine envelope, peak 0.5."""
    t = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t)) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 30)) * (0.5 - 0.5 * np.cos(2 * np.pi * 4 * t))
    voice = voice + 1e-3 * np.random.default_rng(seed).standard_normal(t.size)
    return (0.5 * voice / np.abs(voice).max()).astype(np.float32)


def noise(like: np.ndarray, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(like.size).astype(np.float32)


def make(name: str):
    if name.startswith("pesq"):
        pytest.importorskip("pesq")
    registry = Registry()
    registry.register(codecvq_metrics, "codecvq")
    (metric,) = metrics.prepare([name], registry).ready
    return lambda *arguments: metric.measure(*arguments)[name]


BEST = {
    "pesq_wb": 4.64,
    "pesq_nb": 4.55,
    "stoi": 1.0,
    "estoi": 1.0,
    "mel_distance": 0.0,
    "log_spectral_distance": 0.0,
}


@pytest.mark.parametrize(("name", "best"), BEST.items())
def test_a_clip_against_itself_has_the_best_score(name: str, best: float) -> None:
    clip = speechlike()
    assert make(name)(clip, clip.copy(), RATE) == pytest.approx(best, abs=0.01)


@pytest.mark.parametrize("name", QUICK)
def test_more_noise_is_a_worse_score(name: str) -> None:
    clip, measure = speechlike(), make(name)
    scores = [measure(clip, clip + level * noise(clip), RATE) for level in (0.002, 0.02, 0.1)]
    falling = scores if SPECS[name].higher_is_better else [-score for score in scores]
    assert falling[0] > falling[1] > falling[2]


@pytest.mark.parametrize("sample_rate", [8_000, 24_000, 44_100])
@pytest.mark.parametrize("name", ["stoi", "mel_distance", "si_sdr", "log_spectral_distance", "pesq_nb"])
def test_metrics_accept_other_sample_rates(name: str, sample_rate: int) -> None:
    clip = speechlike(3.0)  # interpreted at the other rate
    assert math.isfinite(make(name)(clip, clip + 0.01 * noise(clip), sample_rate))


@pytest.mark.parametrize("name", QUICK)
def test_repeated_calls_agree_and_do_not_change_the_numpy_random_state(name: str) -> None:
    clip, measure = speechlike(), make(name)
    degraded = np.zeros_like(clip) if name == "estoi" else clip + 0.01 * noise(clip)
    np.random.seed(3)
    expected = np.random.standard_normal()
    np.random.seed(3)
    assert measure(clip, degraded, RATE) == measure(clip, degraded, RATE)
    assert np.random.standard_normal() == expected


def test_si_sdr_matches_its_closed_form_and_ignores_gain() -> None:
    clip = speechlike().astype(np.float64)
    orthogonal = noise(clip).astype(np.float64)
    orthogonal -= clip * (orthogonal @ clip) / (clip @ clip)
    for ratio_db in (-10.0, 0.0, 25.0):
        scale = np.linalg.norm(clip) / np.linalg.norm(orthogonal) * 10 ** (-ratio_db / 20)
        for gain in (0.01, 1.0, -3.0):
            assert si_sdr.si_sdr(clip, gain * (clip + scale * orthogonal), RATE)["si_sdr"] == pytest.approx(
                ratio_db
            )


@pytest.mark.parametrize("distance", [mel_distance.MelDistance(), log_spectral_distance.make()])
def test_distances_are_symmetric_and_obey_the_triangle_inequality(distance) -> None:
    a, b = speechlike(seed=0), speechlike(1.0, seed=5).repeat(2)
    c = 0.3 * noise(a)

    def between(x: np.ndarray, y: np.ndarray) -> float:
        return next(iter(distance(x, y, RATE).values()))

    assert between(a, b) == pytest.approx(between(b, a), rel=1e-12)
    assert between(a, c) <= between(a, b) + between(b, c)


def test_mel_distance_of_a_gain_equals_its_logarithm() -> None:
    clip = 0.3 * noise(speechlike())  # every band far above the floor
    distance = mel_distance.MelDistance()(clip, clip / 10, RATE)["mel_distance"]
    assert distance == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("signal", [np.zeros(1, np.float32), np.zeros(999, np.float32)])
def test_the_distance_of_silence_to_silence_is_zero(signal: np.ndarray) -> None:
    assert mel_distance.MelDistance()(signal, signal, RATE) == {"mel_distance": 0.0}


@pytest.mark.parametrize("window", [128, 500, 2048])
def test_magnitudes_of_a_full_scale_sine_peak_at_one(window: int) -> None:
    bin_number = window // 8
    sine = np.sin(2 * np.pi * bin_number * np.arange(4 * window) / window)
    found = spectrum.magnitudes(sine, window, window // 4)
    assert found.shape == (16, window // 2 + 1)
    assert found[8].max() == pytest.approx(1.0, abs=1e-9)
    assert found[8].argmax() == bin_number


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 24_000, 48_000])
def test_every_mel_band_has_a_bin(sample_rate: int) -> None:
    for window_s, bands in zip(mel_distance.WINDOWS_S, mel_distance.BANDS, strict=True):
        filters = spectrum.mel_filters(bands, 4 * round(window_s * sample_rate / 4), sample_rate)
        assert (filters.max(axis=0) > 0).all()
        assert filters.min() >= 0
        assert filters.max() <= 1


SILENT, SHORT, EMPTY = np.zeros(2 * RATE, np.float32), speechlike(0.2), np.zeros(0, np.float32)


@pytest.mark.parametrize(
    ("name", "reference", "decoded", "sample_rate", "why"),
    [
        ("si_sdr", SILENT, speechlike(), RATE, "reference is silent"),
        ("si_sdr", speechlike(), SILENT, RATE, "decoded clip is silent"),
        ("si_sdr", speechlike(), 0.5 * speechlike(), RATE, "infinite"),
        ("si_sdr", EMPTY, EMPTY, RATE, "silent"),
        ("stoi", SILENT, speechlike(), RATE, "reference is silent"),
        ("stoi", SHORT, SHORT, RATE, "shorter than"),
        ("estoi", SHORT, SHORT, RATE, "shorter than"),
        (
            "stoi",
            np.concatenate((SHORT, SILENT)),
            np.concatenate((SHORT, SILENT)),
            RATE,
            "fewer than 30 frames",
        ),
        ("mel_distance", EMPTY, EMPTY, RATE, "no samples"),
        ("log_spectral_distance", EMPTY, EMPTY, RATE, "no samples"),
        ("pesq_wb", SILENT, speechlike(), RATE, "reference is silent"),
        ("pesq_wb", speechlike(), SILENT, RATE, "decoded clip is silent"),
        ("pesq_wb", SHORT, SHORT, RATE, "shorter than"),
        ("pesq_wb", speechlike(), speechlike(), 8_000, "use pesq_nb"),
        ("pesq_wb", np.ones(31 * RATE, np.float32), np.ones(31 * RATE, np.float32), RATE, "longer than"),
        ("pesq_nb", EMPTY, EMPTY, RATE, "shorter than"),
    ],
)
def test_a_clip_without_a_value_is_undefined(
    name: str, reference: np.ndarray, decoded: np.ndarray, sample_rate: int, why: str
) -> None:
    with pytest.raises(MetricUndefined, match=why):
        make(name)(reference, decoded, sample_rate)


@needs_pesq
def test_pesq_finds_no_utterance_in_beeps() -> None:
    beep = np.zeros(RATE * 6 // 10, np.float32)
    beep[:800] = np.hanning(800) * np.sin(
        2 * np.pi * 500 * np.arange(800) / RATE
    )  # 50 ms, a twelfth of the time
    beeps = np.tile(beep, 12)
    with pytest.raises(MetricUndefined, match="No utterances"):
        pesq_score.score(beeps, beeps, RATE, "wb")


def test_stoi_is_defined_from_its_shortest_clip_on() -> None:
    steady = 0.1 * noise(np.zeros(math.ceil(intelligibility.MIN_DURATION_S * RATE)))
    assert intelligibility.plain()(steady, steady, RATE)["stoi"] == pytest.approx(1.0)


# lookup


def spec(name: str, factory=lambda: lambda r, d, s: {"x": 1.0}, **options) -> MetricSpec:
    return MetricSpec(**{"name": name, "factory": factory, "columns": ("x",), **options})


def registry_of(*specs: MetricSpec) -> Registry:
    class Plugin:
        @hookimpl
        def codecvq_metrics(self):
            yield from specs

    registry = Registry()
    registry.register(Plugin(), "third-party")
    return registry


def test_default_metrics_start_with_perceptual_ones_and_missing_ones_are_listed() -> None:
    registry = registry_of(
        spec("a_distance"),
        spec("stoi"),
        spec("off", default=False),
        spec("gone", requires=("not_installed_x",), extra="eval"),
    )
    found = metrics.prepare(registry=registry)
    assert [metric.name for metric in found.ready] == ["stoi", "a_distance"]
    assert [missing.name for missing in found.unavailable] == ["gone"]
    assert "pip install 'codecvq[eval]'" in found.unavailable[0].reason
    assert metrics.unavailable(registry) == list(found.unavailable)


def test_requesting_a_missing_metric_by_name_is_an_error() -> None:
    registry = registry_of(
        spec("gone", requires=("not_installed_x",), extra="eval"), spec("bare", requires=("not_installed_x",))
    )
    with pytest.raises(MissingExtra, match=r"not_installed_x.*codecvq\[eval\]"):
        metrics.prepare(["gone"], registry)
    with pytest.raises(PluginError, match="pip install not_installed_x"):
        metrics.prepare(["bare"], registry)
    with pytest.raises(UnknownName, match="Did you mean 'gone'"):
        metrics.prepare(["gon"], registry)


def test_metric_names_preserve_their_order_and_count_once() -> None:
    registry = registry_of(spec("b"), spec("a"))
    assert [metric.name for metric in metrics.prepare(["b", "a", "b"], registry).ready] == ["b", "a"]


def test_a_failing_factory_is_listed_by_default_and_an_error_by_name() -> None:
    def broken():
        raise OSError("libfoo.so is missing")

    registry = registry_of(spec("broken", broken), spec("fine"))
    found = metrics.prepare(registry=registry)
    assert [metric.name for metric in found.ready] == ["fine"]
    assert "libfoo.so is missing" in found.unavailable[0].reason
    with pytest.raises(PluginError, match=r"libfoo\.so"):
        metrics.prepare(["broken"], registry)


@pytest.mark.parametrize(
    ("values", "error"), [({"y": 1.0}, PluginError), ({}, PluginError), ({"x": math.nan}, MetricUndefined)]
)
def test_values_that_violate_the_spec_are_an_error(values: dict, error: type[Exception]) -> None:
    (metric,) = metrics.prepare(["odd"], registry_of(spec("odd", lambda: lambda r, d, s: values))).ready
    with pytest.raises(error):
        metric.measure(SHORT, SHORT, RATE)


def test_the_metric_in_the_readme_works(tmp_path: Path) -> None:
    readme = (Path(codecvq_metrics.__file__).parent / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (tmp_path / "my_metric.py").write_text(code)
    registry = Registry()
    registry.load(tmp_path / "my_metric.py")
    (metric,) = metrics.prepare(["snr"], registry).ready
    clip = speechlike()
    assert metric.measure(clip, 0.9 * clip, RATE)["snr"] == pytest.approx(20.0, abs=1e-3)
    with pytest.raises(MetricUndefined):
        metric.measure(clip, clip, RATE)


def test_the_readme_lists_every_metric() -> None:
    readme = (Path(codecvq_metrics.__file__).parent / "README.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in readme.splitlines() if line.startswith("| `")}
    assert set(rows) == set(SPECS)
    for name, row in rows.items():
        better, default = (cell.strip() for cell in row.split("|")[3:5])
        assert (better == "higher", default == "yes") == (SPECS[name].higher_is_better, SPECS[name].default)


def test_versions_of_the_packages_are_recorded() -> None:
    registry = Registry()
    registry.register(codecvq_metrics, "codecvq")
    (metric,) = metrics.prepare(["stoi"], registry).ready
    assert set(metric.packages) == {"pystoi"}
    assert metric.packages["pystoi"][0].isdigit()


def test_listing_metrics_imports_no_torch_and_no_metric_package() -> None:
    import subprocess
    import sys

    code = (
        "import sys, codecvq_metrics; list(codecvq_metrics.codecvq_metrics()); "
        "print([m for m in ('torch', 'numpy', 'pesq', 'pystoi') if m in sys.modules])"
    )
    paths = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=paths, check=True)
    assert done.stdout.strip() == "[]"

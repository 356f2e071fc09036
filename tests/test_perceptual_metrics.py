"""ViSQOL, DNSMOS and speaker similarity: extras, value ranges and invariances."""

from __future__ import annotations

import importlib.util

import codecvq_metrics
import numpy as np
import pytest

from codecvq.data.corpus import open_corpus
from codecvq.errors import MissingExtra
from codecvq.evaluation import metrics
from codecvq.evaluation.metrics import Metric, MetricUndefined
from codecvq.plugins import Registry

RATE = 16_000
SPECS = {spec.name: spec for spec in codecvq_metrics.codecvq_metrics()}
NETWORKS = ["visqol", "dnsmos", "speaker_similarity"]


def make(name: str) -> Metric:
    if missing := metrics.missing_packages(SPECS[name]):
        pytest.skip(f"{missing[0]} is not installed (extra 'eval')")
    registry = Registry()
    registry.register(codecvq_metrics, "codecvq")
    return metrics.prepare([name], registry).ready[0]


def speech(seconds: float = 2.5, voice: int = 0) -> np.ndarray:
    """Start of a clip of the bundled corpus. `voice` is the index of the speaker."""
    corpus = open_corpus("prompts")
    speaker = corpus.speakers[voice]
    clip = next(c for c in corpus if c.speaker == speaker and (c.duration_s or 0) > seconds)
    return clip.read(RATE)[: int(seconds * RATE)]


def noisy(clip: np.ndarray, snr_db: float) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(clip.size).astype(np.float32)
    return clip + noise * np.float32(clip.std() * 10 ** (-snr_db / 20))


@pytest.mark.parametrize("name", NETWORKS)
def test_perceptual_metrics_are_not_measured_by_default(name: str) -> None:
    assert not SPECS[name].default
    assert SPECS[name].extra == "eval"


@pytest.mark.parametrize(("name", "package"), [("visqol", "ai_edge_litert"), ("dnsmos", "onnxruntime")])
def test_a_missing_runtime_raises_missing_extra(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda module, *rest: None if module == package else find("sys")
    )
    registry = Registry()
    registry.register(codecvq_metrics, "codecvq")
    with pytest.raises(MissingExtra, match=rf"{package}.*codecvq\[eval\]"):
        metrics.prepare([name], registry)


@pytest.mark.slow
def test_visqol_decreases_with_noise_and_reports_its_packages() -> None:
    metric, clip = make("visqol"), speech()
    scores = [
        metric.measure(clip, decoded, RATE)["visqol"] for decoded in (clip, noisy(clip, 25), noisy(clip, 5))
    ]
    assert scores[0] > 4.2
    assert scores[0] > scores[1] + 0.2 > scores[2] + 0.4
    assert {"visqol-python", "ai-edge-litert"} <= set(metric.packages)
    assert "lattice" in metric.spec.summary


@pytest.mark.slow
def test_visqol_is_undefined_for_short_or_silent_clips() -> None:
    metric, clip = make("visqol"), speech()
    for reference, decoded in (
        (clip[:4000], clip[:4000]),
        (clip, np.zeros_like(clip)),
        (np.zeros_like(clip), clip),
        (clip[:0], clip[:0]),
    ):
        with pytest.raises(MetricUndefined):
            metric.measure(reference, decoded, RATE)


@pytest.mark.slow
def test_dnsmos_depends_only_on_the_clipped_decoded_audio() -> None:
    metric, clip = make("dnsmos"), speech(1.2)
    alone = metric.measure(clip, clip, RATE)
    assert set(alone) == {"dnsmos", "dnsmos_sig", "dnsmos_bak", "dnsmos_p808"}
    assert metric.measure(np.zeros_like(clip), clip, RATE) == alone
    loud = 20 * clip
    assert np.abs(loud).max() > 1
    assert metric.measure(clip, loud, RATE) == metric.measure(clip, np.clip(loud, -1, 1), RATE)
    assert metric.measure(clip, noisy(clip, 5), RATE)["dnsmos"] < alone["dnsmos"] - 0.3
    with pytest.raises(MetricUndefined):
        metric.measure(clip[:0], clip[:0], RATE)


def test_dnsmos_uses_one_thread() -> None:
    make("dnsmos")
    from codecvq_metrics.dnsmos import _load_scorer

    scorer = _load_scorer()
    for session in (scorer.onnx_sess, scorer.p808_onnx_sess):
        options = session.get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


@pytest.mark.slow
def test_speaker_similarity_separates_speakers_and_ignores_gain() -> None:
    metric = make("speaker_similarity")
    first, other = speech(voice=0), speech(voice=3)

    def similarity(a: np.ndarray, b: np.ndarray) -> float:
        return metric.measure(a, b, RATE)["speaker_similarity"]

    assert similarity(first, first) == pytest.approx(1.0, abs=1e-5)
    assert similarity(first, 0.1 * first) == pytest.approx(1.0, abs=1e-4)
    assert similarity(first, other) == pytest.approx(similarity(other, first), abs=1e-6)
    assert similarity(first, other) < 0.85 < similarity(first, noisy(first, 20))
    for unusable in (np.zeros_like(first), first[:3000]):
        with pytest.raises(MetricUndefined):
            similarity(unusable, unusable)

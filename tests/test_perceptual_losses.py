"""Perceptual losses, compared with their definitions and with the metrics that they model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from codecvq_free_speech import bundled

from codecvq.losses.loudness import LoudnessLoss
from codecvq.losses.similarity import SimilarityLoss


def bundled_speech() -> torch.Tensor:
    """Three seconds of a bundled voice prompt, `[1, 1, S]` at 16 kHz."""
    clip = next(clip for clip in bundled.clips() if (clip.duration_s or 0) > 4)
    return torch.from_numpy(clip.read(16000)).reshape(1, 1, -1)[:, :, 8000:56000]


def distorted(wav: torch.Tensor) -> list[torch.Tensor]:
    """Twelve distorted versions of `wav [1, 1, S]`."""
    noise = torch.randn(wav.shape, generator=torch.Generator().manual_seed(0))
    worse = [wav + level * noise for level in (0.0005, 0.002, 0.008, 0.03)]
    worse += [wav + level * wav.abs() * noise for level in (0.05, 0.15, 0.5, 1.5)]  # noise masked by speech
    return worse + [(wav / step).round() * step for step in (0.001, 0.004, 0.016, 0.06)]


def loudness_by_hand(decoded: np.ndarray, reference: np.ndarray, rate: int) -> float:
    """The loudness loss of one signal, computed frame by frame and band by band."""
    size, top, bands = 2 * round(0.016 * rate), min(rate / 2, 8000), 49
    barks = np.linspace(-0.53, 26.81 * top / (1960 + top) - 0.53, bands + 1)
    hertz = 1960 * (barks + 0.53) / (26.28 - barks)
    centres = (barks[1:] + barks[:-1]) / 2
    kilo = 1960 * (centres + 0.53) / (26.28 - centres) / 1000
    quiet = 3.64 * kilo**-0.8 - 6.5 * np.exp(-0.6 * (kilo - 3.3) ** 2) + 1e-3 * kilo**4
    quiet = 10 ** (np.minimum(quiet, 70) / 10)
    gamma = 0.23 * np.clip(6 / (np.maximum(centres, 0) + 2), 1, 2) ** 0.15
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)

    def powers(wav: np.ndarray) -> np.ndarray:
        wav = np.pad(wav, size // 2)
        rows = []
        for start in range(0, len(wav) - size + 1, size // 2):
            spectrum = np.abs(np.fft.rfft(wav[start : start + size] * hann)) ** 2
            spectrum *= 2 / (size * (hann**2).sum())
            row = np.zeros(bands)
            for k, power in enumerate(spectrum):
                low, high = max(0, (k - 0.5) * rate / size), min(rate / 2, (k + 0.5) * rate / size)
                for b in range(bands):
                    row[b] += power * max(0, min(high, hertz[b + 1]) - max(low, hertz[b])) / (high - low)
            rows.append(row)
        return np.array(rows)

    ours, theirs = powers(decoded), powers(reference)
    frames = theirs.sum(1)
    level = 10**6.5 / max(frames[frames >= 1e-3 * frames.max()].mean(), 1e-5)
    ours, theirs = level * ours, level * theirs
    loud, decoded_loudness = (
        np.maximum(0, 0.1866 * (2 * quiet) ** gamma * ((0.5 + 0.5 * p / quiet) ** gamma - 1))
        for p in (theirs, ours)
    )
    beyond = np.maximum(0, abs(decoded_loudness - loud) - np.minimum(decoded_loudness, loud) / 4)
    h = np.minimum(12, ((ours + 50) / (theirs + 50)) ** 1.2)
    h[h < 3] = 0
    weight = (barks[-1] - barks[0]) / ((theirs.sum(1) + 1e5) / 1e7) ** 0.04
    total = 0.0
    for factor, disturbed in ((0.1, np.sqrt((beyond**2).mean(1))), (0.0309, (beyond * h).mean(1))):
        disturbed = np.minimum(45, weight * disturbed)
        starts = range(0, max(1, len(disturbed) - 20 + 10), 10)
        intervals = [((disturbed[s : s + 20] ** 6).sum() / 20) ** (1 / 6) for s in starts]
        total += factor * np.sqrt(np.mean(np.square(intervals)))
    return total


@pytest.mark.parametrize(("rate", "samples"), [(16000, 9000), (8000, 1000), (44100, 30000)])
def test_the_loudness_loss_matches_its_definition(rate: int, samples: int) -> None:
    rng = np.random.default_rng(0)
    envelope = np.sin(np.linspace(0, 9, samples)) ** 2
    reference = 0.1 * envelope * rng.standard_normal(samples)
    decoded = 0.9 * reference + 0.01 * rng.standard_normal(samples)
    found = LoudnessLoss(rate).distance(
        *(torch.from_numpy(wav).float()[None, None] for wav in (decoded, reference))
    )
    assert float(found) == pytest.approx(loudness_by_hand(decoded, reference, rate), rel=1e-3)


def test_the_loudness_loss_ignores_gain_and_weighs_added_sound_more() -> None:
    wav = bundled_speech()
    noise = 0.003 * torch.randn(wav.shape, generator=torch.Generator().manual_seed(0))
    loss = LoudnessLoss(16000)
    added = float(loss.distance(wav + noise, wav))
    assert float(loss.distance(0.3 * (wav + noise), 0.3 * wav)) == pytest.approx(added, rel=1e-3)
    assert added > float(loss.distance(wav, wav + noise))


def test_the_loudness_loss_ranks_distortions_like_pesq() -> None:
    pesq = pytest.importorskip("pesq")
    wav = bundled_speech()
    loss = LoudnessLoss(16000)
    losses = [float(loss.distance(other, wav)) for other in distorted(wav)]
    scores = [pesq.pesq(16000, wav[0, 0].numpy(), other[0, 0].numpy(), "wb") for other in distorted(wav)]
    ranks = [np.argsort(np.argsort(values)) for values in (losses, scores)]
    assert np.corrcoef(ranks)[0, 1] < -0.9, (losses, scores)


def similarity_by_hand(decoded: np.ndarray, reference: np.ndarray, rate: int) -> float:
    """The similarity loss of one signal, computed cell by cell."""
    hop = round(0.02 * rate)
    size, bands, quality = 4 * hop, 21, 9.26449
    low, high = (quality * np.log1p(hertz / (24.7 * quality)) for hertz in (50, min(8000, rate / 2)))
    erbs = low + (high - low) * np.arange(bands) / bands
    centres = 24.7 * quality * np.expm1(erbs / quality)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)

    def levels(wav: np.ndarray) -> np.ndarray:
        wav, rows = np.pad(wav, size // 2), []
        for start in range(0, len(wav) - size + 1, hop):
            power = 2 * np.abs(np.fft.rfft(wav[start : start + size] * hann)) ** 2 / size**2
            row = [
                sum(
                    p / (1 + ((k * rate / size - centre) / (1.019 * (24.7 + centre / quality))) ** 2) ** 4
                    for k, p in enumerate(power)
                )
                for centre in centres
            ]
            rows.append(5 * np.log10(np.array(row) + 1e-9))
        return np.array(rows)

    d, r = levels(decoded), levels(reference)
    speech = r.max(1) >= max(r.max() - 20, -30)
    d, r = (np.pad(x + 45, 1, mode="edge") for x in (d, r))
    line = np.exp(-2.0 * np.array([1, 0, 1]))
    cells = np.outer(line, line) / line.sum() ** 2
    found = []
    for t in np.flatnonzero(speech):
        for b in np.flatnonzero(centres >= 150):
            x, y = r[t : t + 3, b : b + 3], d[t : t + 3, b : b + 3]
            mx, my = (cells * x).sum(), (cells * y).sum()
            vx, vy = (cells * (x - mx) ** 2).sum(), (cells * (y - my) ** 2).sum()
            cov = (cells * (x - mx) * (y - my)).sum()
            intensity = (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4)
            found.append(intensity * (cov + 0.101) / (np.sqrt((vx + 1e-3) * (vy + 1e-3)) + 0.1))
    return 1 - float(np.mean(found))


@pytest.mark.parametrize(("rate", "samples"), [(16000, 9000), (8000, 3000), (44100, 20000)])
def test_the_similarity_loss_matches_its_definition(rate: int, samples: int) -> None:
    rng = np.random.default_rng(0)
    envelope = np.sin(np.linspace(0, 9, samples)) ** 4
    reference = 0.1 * envelope * rng.standard_normal(samples)
    decoded = 0.9 * reference + 0.01 * rng.standard_normal(samples)
    found = SimilarityLoss(rate).distance(
        *(torch.from_numpy(wav).float()[None, None] for wav in (decoded, reference))
    )
    assert float(found) == pytest.approx(similarity_by_hand(decoded, reference, rate), abs=1e-4)
    assert 0.02 < float(found) < 0.9


def test_the_similarity_loss_depends_on_spectral_shapes_more_than_on_filters() -> None:
    wav = bundled_speech()
    loss = SimilarityLoss(16000)
    tilted = wav.clone()
    tilted[..., 1:] -= 0.5 * wav[..., :-1]
    moved = wav.roll(800, dims=2)  # 50 ms
    assert float(loss.distance(tilted, wav)) < 0.05
    assert float(loss.distance(moved, wav)) > 0.3


def test_the_similarity_loss_excludes_frames_without_speech() -> None:
    generator = torch.Generator().manual_seed(0)
    room, other = (1e-4 * torch.randn(2, 1, 16000, generator=generator) for _ in range(2))
    loss = SimilarityLoss(16000)
    assert float(loss.distance(other, room)) == 0
    assert float(loss.distance(torch.cat([other[:1], 0.1 * other[1:] / 1e-4]), room / 1e-4)) > 0.1, (
        "the same, louder"
    )
    assert float(loss.distance(torch.zeros(1, 1, 100), torch.zeros(1, 1, 100))) == 0


def test_the_similarity_loss_ranks_distortions_like_visqol() -> None:
    pytest.importorskip("visqol")
    pytest.importorskip("ai_edge_litert")
    from codecvq_metrics.visqol_score import make

    loss, visqol, wav = SimilarityLoss(16000), make(), bundled_speech()
    reference = wav[0, 0].numpy()
    losses, scores = [], []
    for other in distorted(wav):
        losses.append(float(loss.distance(other, wav)))
        scores.append(visqol(reference, other[0, 0].numpy(), 16000)["visqol"])
    ranks = [np.argsort(np.argsort(values)) for values in (losses, scores)]
    assert np.corrcoef(ranks)[0, 1] < -0.9, (losses, scores)


@pytest.mark.parametrize("kind", [LoudnessLoss, SimilarityLoss])
@pytest.mark.parametrize("reference", [torch.zeros(2, 1, 8000), 0.1 * torch.ones(2, 1, 8000)])
def test_gradients_are_finite_for_silence(kind: type[torch.nn.Module], reference: torch.Tensor) -> None:
    for decoded in (torch.zeros(2, 1, 8000), 0.1 * torch.randn(2, 1, 8000)):
        decoded.requires_grad_()
        kind(16000).distance(decoded, reference).backward()
        assert decoded.grad is not None
        assert bool(decoded.grad.isfinite().all())
